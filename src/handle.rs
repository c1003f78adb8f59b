//! The handle of a submitted job.

use std::convert::Infallible;
use std::fmt;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::clock::{self, Tick};
use crate::error::Error;
use crate::id::JobId;
use crate::notes::{Checkpoint, Noted, Progress};
use crate::panics::discard;
use crate::provenance::{Cancel, Cause, Origin};
use crate::record::JobRecord;
use crate::state::JobState;
use crate::sync::{self, Arc, spin_loop, yield_now};
use crate::task::Task;
use crate::worker;

/// How long a job is new.
const NEW: Duration = Duration::from_micros(20);

/// How often a waiter looks before it yields its core between looks, and before it parks.
const SPINS: u32 = sync::looks(48);
const YIELDS: u32 = sync::looks(100);

/// A submitted job: wait for it, ask how it is, cancel it.
///
/// Handles are cheap to clone and independent of the delegator: they resolve also when it is shut down or dropped. Dropping
/// one changes nothing for the job.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job};
///
/// let delegator = Delegator::builder().workers(2).build()?;
/// let handles: Vec<_> = (1..=3_u8)
///     .map(|n| delegator.submit(Job::new("square", move |_| Ok(vec![n * n]))))
///     .collect::<Result<_, _>>()?;
/// let squares: Vec<u8> = handles.iter().map(|handle| handle.wait().payload().unwrap()[0]).collect();
/// assert_eq!(squares, [1, 4, 9]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "the job runs anyway, but only its handle tells how it ended"]
pub struct JobHandle {
    pub(crate) task: Arc<Task>,
}

impl JobHandle {
    /// The job's identity.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let handle = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// println!("submitted {}", handle.id());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn id(&self) -> JobId {
        self.task.id
    }

    /// The job's name.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let handle = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// assert_eq!(handle.name(), "work");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name(&self) -> &str {
        &self.task.name
    }

    /// Where the job is. Asking ends a queued job whose deadline has passed or whose context was cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job, JobState};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let handle = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// handle.wait();
    /// assert_eq!(handle.state(), JobState::Completed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn state(&self) -> JobState {
        self.task.look()
    }

    /// How often the job has been started: more than once only if it is [tried again](crate::Job::with_retry).
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// let delegator = Delegator::manual();
    /// let handle = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// assert_eq!(handle.attempts(), 0);
    /// handle.wait();
    /// assert_eq!(handle.attempts(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn attempts(&self) -> u32 {
        self.task.attempts()
    }

    /// Whether the job has its outcome. Once it has, its record is filed and what it captured is dropped. Of a job that the
    /// timer ended while it was queued, another thread may still be dropping that; [`wait`](JobHandle::wait) waits for it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let handle = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// handle.wait();
    /// assert!(handle.is_finished());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_finished(&self) -> bool {
        self.task.look().is_finished()
    }

    /// What the job's operation last said with [`Context::checkpoint`](crate::Context::checkpoint), while it runs and
    /// afterwards; `None` if it has said nothing yet. Costs a lock of the job's worker, and a copy of the text.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let handle = delegator.submit(Job::new("import", |ctx| {
    ///     ctx.checkpoint("half of it")?;
    ///     Ok(Vec::new())
    /// }))?;
    /// match handle.checkpoint() {
    ///     Some(last) => println!("at {last}, {:?} ago", last.age()),
    ///     None => println!("{}", handle.state()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.noted()?.checkpoint.map(|note| note.seen_by(self.task.wall))
    }

    /// What the job's operation last said with [`Context::progress`](crate::Context::progress), while it runs and
    /// afterwards; `None` if it has said nothing yet. Costs as [`checkpoint`](JobHandle::checkpoint).
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let handle = delegator.submit(Job::new("import", |ctx| {
    ///     ctx.progress(1, 2);
    ///     Ok(Vec::new())
    /// }))?;
    /// handle.wait();
    /// assert_eq!(handle.progress().expect("told").done, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn progress(&self) -> Option<Progress> {
        self.noted()?.progress
    }

    fn noted(&self) -> Option<Noted> {
        let owner = self.task.owner();
        // In this order: they go from the worker to the job.
        let running = owner.as_ref().and_then(|owner| owner.noted(&self.task));
        // It may be the last reference by now.
        discard("a delegator", owner);
        running.or_else(|| self.task.last_noted())
    }

    /// Waits until the job is finished. Any number of threads may, any number of times; later calls return at once.
    ///
    /// A queued job ends at its deadline or when its context is cancelled, so this returns then, however busy the workers
    /// are. A running job decides itself how fast it stops.
    ///
    /// Inside a job of the same delegator, a job that is still queued is run by this call, on this thread, so that
    /// workers which all wait for queued jobs get on. Jobs that wait for each other in a circle, or one for itself,
    /// wait for ever, and so does a caller who holds a lock that the job wants.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let record = delegator.submit(Job::new("work", |_| Ok(vec![7])))?.wait();
    /// assert_eq!(record.payload(), Some(&[7][..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait(&self) -> JobRecord {
        if let Some(record) = self.finished() {
            return record;
        }
        loop {
            worker::run_inline(&self.task);
            if let Some(record) = self.wait_until(Tick::NEVER, worker::could_run(&self.task)) {
                return record;
            }
        }
    }

    /// Waits for this long at the most; `None` if the job is not finished by then. Never runs anything inline. A time too
    /// long to be told, such as [`Duration::MAX`], makes it [`wait`](JobHandle::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let nap = Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(60)).map(|()| Vec::new()));
    /// let handle = delegator.submit(nap)?;
    /// assert!(handle.wait_timeout(Duration::from_millis(5)).is_none());
    /// handle.cancel();
    /// assert!(handle.wait_timeout(Duration::from_secs(60)).is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> Option<JobRecord> {
        match Tick::now().after(timeout) {
            Tick::NEVER => Some(self.wait()),
            until => self.wait_until(until, false),
        }
    }

    /// Waits until this instant at the most; otherwise as [`wait_timeout`](JobHandle::wait_timeout).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let handle = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// assert!(handle.wait_deadline(Instant::now() + Duration::from_secs(60)).is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_deadline(&self, deadline: Instant) -> Option<JobRecord> {
        match Tick::from(deadline) {
            Tick::NEVER => Some(self.wait()),
            until => self.wait_until(until, false),
        }
    }

    /// The record if the job is finished.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let handle = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// match handle.try_wait() {
    ///     Some(record) => println!("{record}"),
    ///     None => println!("still at it"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_wait(&self) -> Option<JobRecord> {
        self.is_finished().then(|| Arc::clone(&self.task)).and_then(JobRecord::of)
    }

    /// Waits as [`wait`](JobHandle::wait) does and gives the payload or the error.
    ///
    /// The payload is moved out if nothing else refers to the job; it is copied if the registry retains the record, a clone
    /// of the handle is about, or the worker has not let go of the job yet. [`JobRecord::payload`] reads it without copying.
    ///
    /// # Errors
    ///
    /// The operation's error, or that of a panic, a cancel or a passed deadline.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let payload = delegator.submit(Job::new("work", |_| Ok(vec![7])))?.join()?;
    /// assert_eq!(payload, [7]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn join(self) -> Result<Vec<u8>, Error> {
        let record = self.wait();
        drop(self);
        record.into_result()
    }

    /// Cancels the job, without a cause.
    ///
    /// A queued job is `Cancelled` when this returns, and what it captured has been dropped, on this thread. The
    /// context of a running job is cancelled, and the operation decides. `false` if the job had ended, or its operation
    /// had returned.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// # use workpath::{Delegator, Job, JobState};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let nap = Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(60)).map(|()| Vec::new()));
    /// let handle = delegator.submit(nap)?;
    /// assert!(handle.cancel());
    /// assert_eq!(handle.wait().state(), JobState::Cancelled);
    /// assert!(!handle.cancel());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn cancel(&self) -> bool {
        self.cancel_for(Cancel::here(Origin::User, None))
    }

    /// Cancels the job with a cause, which [`Error::get_ref`] of the job's error gives; otherwise as
    /// [`cancel`](JobHandle::cancel).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let nap = Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(60)).map(|()| Vec::new()));
    /// let handle = delegator.submit(nap)?;
    /// handle.cancel_with("superseded");
    /// assert_eq!(handle.join().unwrap_err().to_string(), "cancelled: superseded");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn cancel_with(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> bool {
        self.cancel_for(Cancel::here(Origin::User, Some(Cause::from(cause.into()))))
    }

    /// A receiver that never gets a message and disconnects when the job is finished, for
    /// [`crossbeam_channel::select!`]. Calling it again is cheap.
    ///
    /// A job that waits on it for a queued job, on the only worker, waits for ever: only [`wait`](JobHandle::wait) runs jobs
    /// inline.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use crossbeam_channel::{after, select};
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let handle = delegator.submit(Job::new("work", |_| Ok(vec![7])))?;
    /// select! {
    ///     recv(handle.done()) -> _ => println!("{}", handle.wait()),
    ///     recv(after(Duration::from_secs(60))) -> _ => println!("still at it"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn done(&self) -> Receiver<Infallible> {
        self.task.done()
    }

    /// The record of a job that has nothing left to be looked after.
    fn finished(&self) -> Option<JobRecord> {
        if self.task.is_over() { JobRecord::of(Arc::clone(&self.task)) } else { None }
    }

    /// Every form of waiting: polls for a moment, then parks.
    fn wait_until(&self, until: Tick, inline: bool) -> Option<JobRecord> {
        // A job that was made a moment ago may be done in another. One that has been about for a while is waiting for its
        // turn, and whoever is to run it may be waiting for this core.
        let is_new = Tick::now() < self.task.created.after(NEW);
        let spins = if is_new { SPINS } else { 0 };
        // Where time is virtual, nobody else is at it.
        let looks = if clock::is_virtual() { 0 } else { spins + YIELDS };
        for look in 0..looks {
            if let Some(record) = self.finished() {
                return Some(record);
            }
            if look < spins { spin_loop() } else { yield_now() }
        }
        self.task.wait_until(until, inline).then(|| Arc::clone(&self.task)).and_then(JobRecord::of)
    }

    pub(crate) fn cancel_for(&self, mut cancel: Arc<Cancel>) -> bool {
        self.task.look();
        loop {
            let begun = self.task.started();
            match self.task.cancel_queued(cancel) {
                Ok(()) => return true,
                Err(back) => cancel = back,
            }
            let owner = self.task.owner();
            if owner.is_some_and(|owner| owner.cancel_running(&self.task, Arc::clone(&cancel))) {
                crate::panics::discard("the cause of a cancel", cancel);
                return true;
            }
            if !self.task.has_moved_on(begun) {
                crate::panics::discard("the cause of a cancel", cancel);
                return false;
            }
        }
    }
}

/// What became of a job that was to be done unless another with its key is: see
/// [`Delegator::coalesce`](crate::Delegator::coalesce).
///
/// # Examples
///
/// ```
/// use workpath::{Coalesced, Delegator, Job};
///
/// let delegator = Delegator::manual();
/// let thumbnail = || Job::new("thumbnail", |_| Ok(vec![1]));
/// let first = delegator.coalesce("cat.jpg", thumbnail())?;
/// let second = delegator.coalesce("cat.jpg", thumbnail())?;
/// assert!(matches!((&first, &second), (Coalesced::Submitted(_), Coalesced::Joined(_))));
/// assert_eq!(first.handle().id(), second.handle().id());
/// assert_eq!(second.into_handle().join()?, [1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub enum Coalesced {
    /// It was submitted.
    Submitted(JobHandle),
    /// It was dropped. This is the handle of the other.
    Joined(JobHandle),
}

impl Coalesced {
    /// The job that does it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// let delegator = Delegator::manual();
    /// let done = delegator.coalesce("key", Job::new("work", |_| Ok(Vec::new())))?;
    /// assert_eq!(done.handle().name(), "work");
    /// # Ok::<(), workpath::SubmitError>(())
    /// ```
    pub fn handle(&self) -> &JobHandle {
        match self {
            Coalesced::Submitted(handle) | Coalesced::Joined(handle) => handle,
        }
    }

    /// The job that does it, by value.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// let delegator = Delegator::manual();
    /// let done = delegator.coalesce("key", Job::new("work", |_| Ok(vec![1])))?;
    /// assert_eq!(done.into_handle().join()?, [1]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_handle(self) -> JobHandle {
        match self {
            Coalesced::Submitted(handle) | Coalesced::Joined(handle) => handle,
        }
    }
}

impl fmt::Debug for JobHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobHandle")
            .field("id", &self.task.id)
            .field("name", &self.task.name)
            .field("state", &self.task.state())
            .finish()
    }
}

// A handle shows a job at one moment or a later one, never half of it.
impl std::panic::UnwindSafe for JobHandle {}
impl std::panic::RefUnwindSafe for JobHandle {}
