//! What happens to jobs, told to whoever subscribes.
//!
//! 1. Without subscribers an event costs one look at a flag; it is not even made.
//! 2. Nobody waits for a subscriber: what finds its channel full is counted, and the count goes into the channel before the
//!    next event that fits. The channels are unbounded ones, with the bound kept here under the lock of all senders, so
//!    that there is always a place for that count.
//! 3. What is sent is cloned under the lock, and the original dropped without it: a record may hold the last reference to a
//!    value of the user's.

use std::borrow::Cow;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::error::{Error, SubmitErrorKind};
use crate::id::JobId;
use crate::notes::Checkpoint;
use crate::panics::discard;
use crate::record::JobRecord;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};

/// What a delegator tells those who [subscribe](crate::Delegator::subscribe).
///
/// The events of one job come in order: `Submitted`, then `Rejected` or `Joined`; or `Submitted`, `Started` with its
/// `Checkpoint`s and `Stuck` after it unless it ends before, and `Finished`. A job that is tried again has `Retrying`, and
/// another `Started`, for each further attempt. Events of different jobs come in the order in which they were sent, which is
/// about that in which things happened.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Event, Job, JobState};
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// let events = delegator.subscribe(100);
/// let _ = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?;
/// for event in events {
///     match event {
///         Event::Started { name, worker, .. } => println!("{name} runs on worker {worker}"),
///         Event::Finished(record) => {
///             assert_eq!(record.state(), JobState::Completed);
///             break;
///         }
///         Event::Missed(count) => println!("{count} events were missed"),
///         _ => {}
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A job was given to the delegator. It is told before the job can start, so it may be refused yet.
    #[non_exhaustive]
    Submitted {
        /// The job.
        id: JobId,
        /// Its name.
        name: Cow<'static, str>,
    },
    /// The delegator did not accept the job; the submitter has it back.
    #[non_exhaustive]
    Rejected {
        /// The job.
        id: JobId,
        /// Its name.
        name: Cow<'static, str>,
        /// Why not.
        why: SubmitErrorKind,
    },
    /// The job was not needed: another with its key is there. See [`Delegator::coalesce`](crate::Delegator::coalesce).
    #[non_exhaustive]
    Joined {
        /// The job.
        id: JobId,
        /// Its name.
        name: Cow<'static, str>,
        /// The other.
        to: JobId,
    },
    /// A worker has taken the job and is about to run its operation.
    #[non_exhaustive]
    Started {
        /// The job.
        id: JobId,
        /// Its name.
        name: Cow<'static, str>,
        /// The index of the worker; the number of workers where the submitter runs the job
        /// ([`Overflow::CallerRuns`](crate::Overflow::CallerRuns)).
        worker: usize,
    },
    /// The job's operation has said where it is, with [`Context::checkpoint`](crate::Context::checkpoint).
    #[non_exhaustive]
    Checkpoint {
        /// The job.
        id: JobId,
        /// Its name.
        name: Cow<'static, str>,
        /// The index of the worker.
        worker: usize,
        /// What it said, and where.
        checkpoint: Checkpoint,
    },
    /// An attempt has failed, and the job is to be tried again. Told before it is, so a shutdown or a cancel may come first.
    #[non_exhaustive]
    Retrying {
        /// The job.
        id: JobId,
        /// Its name.
        name: Cow<'static, str>,
        /// Which attempt has failed: the first is one.
        attempt: u32,
        /// What it failed with.
        error: Error,
        /// How long until the next.
        delay: Duration,
    },
    /// The job's operation goes on though its context has ended, for longer than
    /// [`Builder::stuck_after`](crate::Builder::stuck_after) allows. Told once for a job.
    #[non_exhaustive]
    Stuck {
        /// The job.
        id: JobId,
        /// Its name.
        name: Cow<'static, str>,
        /// The index of the worker that it keeps.
        worker: usize,
        /// How long ago its deadline was, or its cancel.
        overdue: Duration,
        /// Where it said it was last.
        checkpoint: Option<Checkpoint>,
    },
    /// A fresh worker has taken the place of one that a stuck job keeps: see
    /// [`Builder::replacements`](crate::Builder::replacements).
    #[non_exhaustive]
    WorkerReplaced {
        /// The index of the worker that is kept. It ends when its jobs have returned.
        worker: usize,
        /// The index of the one that goes on with the queue.
        by: usize,
    },
    /// The job has ended, one way or another. The registry has the record, if it retains it.
    Finished(JobRecord),
    /// A shutdown has begun: nothing more is accepted. Told once.
    ShuttingDown,
    /// So many events found the subscriber's channel full. Told before the first that fits again, or at the end.
    Missed(u64),
}

/// The subscribers of a delegator.
#[derive(Default)]
pub(crate) struct Events {
    /// Whether there are subscribers. Who has not heard yet of one that just came owes it nothing.
    watched: Watched,
    state: Mutex<State>,
}

/// A flag at two places, so that those who have no reference to the delegator can see it.
#[derive(Default)]
struct Watched {
    here: AtomicBool,
    shared: Arc<AtomicBool>,
}

impl Watched {
    fn set(&self, watched: bool) {
        self.here.store(watched, Ordering::Relaxed);
        self.shared.store(watched, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct State {
    subscribers: Vec<Subscriber>,
    /// Ends of jobs that were announced and are not told yet.
    ending: usize,
    shutting_down: bool,
    closed: bool,
}

struct Subscriber {
    sender: Sender<Event>,
    capacity: usize,
    missed: u64,
}

impl Subscriber {
    /// `false` if nobody receives any more.
    fn offer(&mut self, event: &Event) -> bool {
        if self.sender.len() >= self.capacity {
            self.missed = self.missed.saturating_add(1);
            return true;
        }
        self.tell_missed() && self.sender.send(event.clone()).is_ok()
    }

    fn tell_missed(&mut self) -> bool {
        match std::mem::take(&mut self.missed) {
            0 => true,
            missed => self.sender.send(Event::Missed(missed)).is_ok(),
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.tell_missed();
    }
}

impl Events {
    pub(crate) fn subscribe(&self, capacity: usize) -> Receiver<Event> {
        let (sender, receiver) = unbounded();
        let mut state = self.state.lock();
        if !state.closed {
            state.subscribers.push(Subscriber { sender, capacity: capacity.max(1), missed: 0 });
            self.watched.set(true);
        }
        receiver
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watched.here.load(Ordering::Relaxed)
    }

    /// What [`is_watched`](Events::is_watched) looks at.
    pub(crate) fn watched(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.watched.shared)
    }

    /// Tells the subscribers, if there are any. To be called without any lock.
    pub(crate) fn emit(&self, event: impl FnOnce() -> Event) {
        if self.is_watched() {
            self.send(event());
        }
    }

    #[cold]
    fn send(&self, event: Event) {
        self.state.lock().send(&event, &self.watched);
        discard("an event", event);
    }

    /// A job is about to be filed; [`finished`](Events::finished) follows. Nobody is told of the end of the events before.
    #[cold]
    pub(crate) fn finishing(&self) {
        self.state.lock().ending += 1;
    }

    #[cold]
    pub(crate) fn finished(&self, record: Option<JobRecord>) {
        let event = record.map(Event::Finished);
        let mut state = self.state.lock();
        if let Some(event) = &event {
            state.send(event, &self.watched);
        }
        state.ending -= 1;
        state.close_when_told(&self.watched);
        drop(state);
        discard("an event", event);
    }

    /// A shutdown begins.
    pub(crate) fn shutting_down(&self) {
        let mut state = self.state.lock();
        if !std::mem::replace(&mut state.shutting_down, true) {
            state.send(&Event::ShuttingDown, &self.watched);
        }
    }

    /// Nothing is left that could happen: the receivers disconnect.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.close_when_told(&self.watched);
    }
}

impl State {
    /// The caller keeps the event until it has let go of the lock, so that no clone of it is the last.
    fn send(&mut self, event: &Event, watched: &Watched) {
        self.subscribers.retain_mut(|subscriber| subscriber.offer(event));
        watched.set(!self.subscribers.is_empty());
    }

    fn close_when_told(&mut self, watched: &Watched) {
        if self.closed && self.ending == 0 {
            self.subscribers.clear();
            watched.set(false);
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_receiver_is_unsubscribed_also_when_it_was_full() {
        let events = Events::default();
        let (one, other) = (events.subscribe(1), events.subscribe(2));
        events.send(Event::Missed(1));
        events.send(Event::Missed(2));
        drop(one);
        events.send(Event::Missed(3));
        assert!(events.is_watched());
        drop(other);
        events.send(Event::Missed(4));
        assert!(!events.is_watched());
    }

    #[test]
    fn the_end_waits_for_jobs_that_are_being_filed() {
        let events = Events::default();
        let receiver = events.subscribe(1);
        events.finishing();
        events.close();
        assert_eq!(receiver.try_recv().err(), Some(crossbeam_channel::TryRecvError::Empty));
        events.finished(None);
        assert_eq!(receiver.try_recv().err(), Some(crossbeam_channel::TryRecvError::Disconnected));
        assert!(!events.is_watched());
    }
}
