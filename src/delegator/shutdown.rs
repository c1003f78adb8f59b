//! The end of a delegator, and the account of what it did with every job.

use std::panic::Location;
use std::time::Duration;

use crate::clock::{self, Tick};
use crate::directive::Directive;
use crate::engine::{Caller, Engine, ShutDown, Slot};
use crate::id::JobId;
use crate::job::Job;
use crate::panics::discard;
use crate::queue::Phase;
use crate::registry::Counts;
use crate::status::{self, WorkerStatus};
use crate::sync::{self, Arc, Mutex, Thread};
use crate::worker;

/// How long a shutdown waits after it has cancelled what still ran at its limit, before it calls it stuck.
const GRACE: Duration = Duration::from_millis(100);

/// How to shut a [`Delegator`](crate::Delegator) down.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::Shutdown;
///
/// let patient = Shutdown::drain();
/// let bounded = Shutdown::drain().within(Duration::from_secs(5));
/// let hasty = Shutdown::cancel().within(Duration::from_secs(1));
/// # let _ = (patient, bounded, hasty);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a shutdown does nothing until it is given to a delegator"]
pub struct Shutdown {
    cancel: bool,
    within: Duration,
}

impl Shutdown {
    /// Refuses new jobs and finishes what is queued and running. Scheduled jobs are not waited for: they come back in
    /// [`unstarted`](ShutdownReport::unstarted). So do jobs that wait to be tried again, or fail meanwhile and would: they
    /// keep count of their attempts.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job, Shutdown};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let handle = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// delegator.shutdown(Shutdown::drain());
    /// assert!(handle.is_finished());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn drain() -> Shutdown {
        Shutdown { cancel: false, within: Duration::MAX }
    }

    /// Refuses new jobs, hands the unstarted ones back, cancels the running ones and waits for them.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job, Shutdown};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// for _ in 0..3 {
    ///     let nap = Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(60)).map(|()| Vec::new()));
    ///     let _ = delegator.submit(nap)?;
    /// }
    /// let report = delegator.shutdown(Shutdown::cancel());
    /// assert_eq!(report.cancelled + report.unstarted.len(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn cancel() -> Shutdown {
        Shutdown { cancel: true, within: Duration::MAX }
    }

    /// Sets a limit. A drain that reaches it goes on as a cancel; what still runs a short grace after that is reported as
    /// stuck and left to itself: its thread goes on until its operation returns. A limit of zero cancels at once.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Shutdown};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let report = delegator.shutdown(Shutdown::drain().within(Duration::from_secs(5)));
    /// assert!(report.stuck.is_empty());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub const fn within(mut self, limit: Duration) -> Shutdown {
        self.within = limit;
        self
    }

    #[cfg(feature = "orders")]
    pub(crate) const fn cancels(self) -> bool {
        self.cancel
    }

    #[cfg(feature = "orders")]
    pub(crate) const fn limit(self) -> Duration {
        self.within
    }
}

/// What became of the jobs that were scheduled, queued or running when the shutdown began: their number is
/// `completed + failed + cancelled + unstarted.len() + stuck.len()`.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job, Shutdown};
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// let report = delegator.shutdown(Shutdown::drain());
/// println!("{} completed, {} to be done elsewhere", report.completed, report.unstarted.len());
/// # Ok::<(), workpath::BuildError>(())
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Operations that returned `Ok`.
    pub completed: usize,
    /// Operations that failed or panicked, and jobs that timed out.
    pub failed: usize,
    /// Jobs that were cancelled, by the shutdown or by others, other than the unstarted ones.
    pub cancelled: usize,
    /// Jobs that were still queued or scheduled: their handles say cancelled, and here they are, with their ids, to be
    /// submitted to another delegator.
    pub unstarted: Vec<Job>,
    /// Jobs whose operation did not return in time, each with the worker it keeps. A worker that is in a job inside another
    /// is here with both.
    pub stuck: Vec<WorkerStatus>,
    /// Orders that went back to their queue: not started, or cancelled by the stop. Only of a
    /// [`Serving`](crate::Serving); a delegator hands no orders back.
    #[cfg(feature = "orders")]
    pub handed_back: usize,
}

impl ShutdownReport {
    /// How many jobs the report covers.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Shutdown};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// assert_eq!(delegator.shutdown(Shutdown::drain()).total(), 0);
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn total(&self) -> usize {
        let total = self.completed + self.failed + self.cancelled + self.unstarted.len() + self.stuck.len();
        #[cfg(feature = "orders")]
        let total = total + self.handed_back;
        total
    }
}

/// How far the end has come. Written by the delegator thread and by the threads that shut down.
pub(crate) struct Closing {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    begun: bool,
    /// How many workers there are and were: so many have to stop.
    workers: usize,
    /// Workers that have left their loop.
    stopped: Vec<usize>,
    /// All workers have, and their threads have ended.
    joined: bool,
    /// Workers whose jobs are in a shutdown themselves. They stop once that returns, so shutdowns from inside jobs do not
    /// wait for each other.
    inside: Vec<usize>,
    /// Nobody waits for the other workers any more.
    detached: bool,
    /// Threads that wait for any of this to change.
    waiting: Vec<Thread>,
}

impl Closing {
    pub(crate) fn new(workers: usize) -> Closing {
        Closing { state: Mutex::new(State { workers, ..State::default() }) }
    }

    /// One more is about to be started.
    pub(super) fn worker_added(&self) {
        self.state.lock().workers += 1;
    }

    /// It was not. There are others, so nobody waits for this.
    pub(super) fn worker_missing(&self) {
        self.change(|state| state.workers -= 1);
    }

    /// Whether this is the first call.
    fn begin(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().begun, true)
    }

    /// A worker has left its loop. `true` if it was the last.
    pub(super) fn worker_stopped(&self, worker: usize) -> bool {
        self.change(|state| {
            state.stopped.push(worker);
            state.stopped.len() == state.workers
        })
    }

    pub(super) fn workers_joined(&self) {
        self.change(|state| state.joined = true);
    }

    pub(super) fn are_workers_joined(&self) -> bool {
        self.state.lock().joined
    }

    fn detach(&self) {
        self.change(|state| state.detached = true);
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(|thread| thread.unpark());
        result
    }

    /// Marks the worker that is asking, if it is one. `true` if it was not marked already.
    fn enter(&self, worker: Option<usize>) -> bool {
        let Some(worker) = worker else { return false };
        self.change(|state| {
            let enters = !state.inside.contains(&worker);
            if enters {
                state.inside.push(worker);
            }
            enters
        })
    }

    fn leave(&self, worker: Option<usize>) {
        self.state.lock().inside.retain(|inside| Some(*inside) != worker);
    }

    /// Waits until the threads of all workers have ended or been given up; for a worker, until all others have left their
    /// loops or are in a shutdown too.
    /// `false` if `until` comes first.
    fn wait(&self, engine: &Engine, is_worker: bool, until: Tick) -> bool {
        loop {
            {
                let mut state = self.state.lock();
                let others_stopped = is_worker && state.stopped.len() + state.inside.len() >= state.workers;
                if state.joined || state.detached || others_stopped {
                    return true;
                }
                if until != Tick::NEVER && until <= Tick::now() {
                    return false;
                }
                state.waiting.retain(|thread| thread.id() != sync::current().id());
                state.waiting.push(sync::current());
            }
            engine.park_until(until);
        }
    }
}

/// What was so when the shutdown began.
struct Start {
    counts: Counts,
    /// Where the calling thread works, if it does.
    slot: Option<Arc<Slot>>,
    /// Which worker that is, if it is one.
    worker: Option<usize>,
}

#[track_caller]
pub(super) fn shutdown(engine: &Arc<Engine>, closing: &Closing, how: Shutdown) -> ShutdownReport {
    let caller = Some(Location::caller());
    let limit = Tick::now().after(how.within);
    let first = closing.begin();
    let slot = worker::slot_on(engine);
    let worker = slot.as_ref().and_then(|own| engine.slots.iter().position(|slot| Arc::ptr_eq(slot, own)));
    let start = Start { counts: engine.registry.accounts().1, slot, worker };
    engine.events.shutting_down();
    let entered = closing.enter(start.worker);
    let runs_here = start.slot.as_ref().filter(|_| worker.is_none());
    runs_here.inspect(|slot| engine.callers.shuts_down(slot, true));
    let finished = finish(engine, closing, &start, first, how.cancel, limit, caller);
    runs_here.inspect(|slot| engine.callers.shuts_down(slot, false));
    if entered {
        closing.leave(start.worker);
    }
    if first { report(engine, &start, finished) } else { ShutdownReport::default() }
}

/// Sees the workers off. `false` if some are stuck.
fn finish(
    engine: &Arc<Engine>,
    closing: &Closing,
    start: &Start,
    first: bool,
    cancel: bool,
    limit: Tick,
    caller: Caller,
) -> bool {
    let is_worker = start.slot.is_some();
    let wait = |until| {
        closing.wait(engine, is_worker, until) && engine.callers.wait(until, |until| engine.park_until(until))
    };
    engine.queue.close(if cancel { Phase::Stopped } else { Phase::Draining });
    engine.close_agenda(caller);
    if cancel {
        stop(engine, caller);
    }
    let mut stopped = wait(limit);
    if stopped && is_worker && !cancel {
        stopped = worker::drain_inline(limit);
    }
    if !stopped && !cancel {
        engine.queue.close(Phase::Stopped);
        stop(engine, caller);
    }
    if stopped || wait(Tick::now().after(GRACE)) {
        return true;
    }
    if first {
        // A later call gives up for itself alone: the account of the first is not complete yet.
        closing.detach();
        // A delegator thread that has ended has nothing to leave.
        let _ = engine.admin.send(Directive::Detach);
    }
    false
}

/// Takes the unstarted jobs out and cancels the running ones, on this thread.
fn stop(engine: &Engine, caller: Caller) {
    // Those that are held back first, so that nobody's end puts them in the queue.
    let held = engine.take_held().into_iter();
    for task in held.chain(std::iter::from_fn(|| engine.queue.try_pop())) {
        // A job whose context is done ends for that reason; one that has ended leaves what the timer left.
        task.look();
        if let Some(captures) = task.withdraw() {
            engine.hand_back(&task, captures, caller);
        }
        discard("a finished job", task);
    }
    engine.scope.cancel(ShutDown::cancel(caller));
    engine.alarm.set_for_end(Tick::now());
}

/// The jobs that have not returned, other than those of the worker that is asking.
fn stuck(engine: &Engine, start: &Start) -> Vec<WorkerStatus> {
    let is_own = |slot: &Arc<Slot>| start.slot.as_ref().is_some_and(|own| Arc::ptr_eq(own, slot));
    let others = engine.all_slots().into_iter().filter(|(_, slot)| !is_own(slot));
    others.flat_map(|(index, slot)| status::of_jobs(index, &slot)).collect()
}

fn jobs(workers: &[WorkerStatus]) -> impl Iterator<Item = (usize, Option<JobId>)> {
    workers.iter().map(|worker| (worker.index, worker.running))
}

/// The accounts and the stuck jobs at one moment, at which no job is between the two.
fn settle(engine: &Engine, start: &Start) -> (Counts, Vec<WorkerStatus>) {
    let give_up = clock::real_now().after(GRACE);
    loop {
        let stuck = stuck(engine, start);
        let (accepted, counts) = engine.registry.accounts();
        let in_hand = accepted.saturating_sub(counts.finished()) == engine.running() as u64;
        let is_same = || jobs(&stuck).eq(jobs(&self::stuck(engine, start)));
        if (in_hand && is_same()) || give_up <= clock::real_now() {
            return (counts, stuck);
        }
        sync::yield_now();
    }
}

fn report(engine: &Engine, start: &Start, finished: bool) -> ShutdownReport {
    // Another thread may be about to finish what it has cancelled.
    let (after, stuck) = settle(engine, start);
    let stuck = if finished { Vec::new() } else { stuck };
    let before = start.counts;
    let unstarted = engine.take_unstarted();
    let since = |after: u64, before: u64| usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX);
    ShutdownReport {
        completed: since(after.completed, before.completed),
        failed: since(after.failed, before.failed)
            + since(after.panicked, before.panicked)
            + since(after.timed_out, before.timed_out),
        cancelled: since(after.cancelled, before.cancelled).saturating_sub(unstarted.len()),
        unstarted,
        stuck,
        #[cfg(feature = "orders")]
        handed_back: 0,
    }
}

/// Ends the events after all workers have ended. Another thread may be about to finish a job that it took out of the queue.
pub(super) fn end_events(engine: &Engine) {
    if engine.events.is_watched() {
        engine.registry.wait_idle(Tick::now().after(GRACE), |until| engine.park_until(until));
    }
    engine.events.close();
}

/// Drains without waiting.
pub(super) fn leave(engine: &Engine) {
    engine.events.shutting_down();
    engine.queue.close(Phase::Draining);
    engine.close_agenda(None);
}
