//! The record of a finished job.

use std::fmt;
use std::time::{Duration, SystemTime};

#[cfg(feature = "trace")]
use crate::clock::Tick;
use crate::error::Error;
use crate::id::JobId;
use crate::notes::{Checkpoint, Progress};
use crate::panics::discard;
use crate::retry::{Attempt, GaveUp};
use crate::state::JobState;
use crate::sync::Arc;
use crate::task::{Outcome, Task};

/// Everything that is known about a finished job. Cloning shares it, payload included.
///
/// All times of a record come from the monotonic clock and one reading of the wall clock, at most a second older than the
/// job, so they never run backwards.
///
/// `Display` is the line that the log announces the job with; it never shows the payload.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job, JobState};
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// let record = delegator.submit(Job::new("answer", |_| Ok(vec![42])))?.wait();
/// assert_eq!(record.state(), JobState::Completed);
/// assert_eq!(record.payload(), Some(&[42][..]));
/// assert!(record.to_string().contains("\"answer\" completed"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct JobRecord {
    /// Invariant: its outcome is settled.
    task: Arc<Task>,
}

impl JobRecord {
    /// `None` while the outcome is not settled.
    pub(crate) fn of(task: Arc<Task>) -> Option<JobRecord> {
        task.outcome().is_some().then_some(JobRecord { task })
    }

    fn outcome(&self) -> &Outcome {
        self.task.outcome().expect("a record is only made of a task with an outcome")
    }

    /// The outcome by value: moved if nobody else refers to the job, a copy of the payload otherwise.
    pub(crate) fn into_result(mut self) -> Result<Vec<u8>, Error> {
        if let Some(outcome) = Arc::get_mut(&mut self.task).and_then(Task::take_outcome) {
            if self.task.was_retried() {
                discard("a record", self.task);
            }
            return outcome.result;
        }
        self.outcome().result.clone()
    }

    /// When the job was created, started and completed.
    #[cfg(feature = "trace")]
    pub(crate) fn ticks(&self) -> (Tick, Option<Tick>, Tick) {
        (self.task.created, self.task.started(), self.outcome().completed)
    }

    /// The same by the wall clock, in milliseconds since 1970.
    #[cfg(feature = "serde")]
    pub(crate) fn unix_millis(&self) -> (u64, Option<u64>, u64) {
        let millis = |tick| self.task.wall.unix_millis(tick);
        (millis(self.task.created), self.task.started().map(millis), millis(self.outcome().completed))
    }

    /// The job's identity.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let handle = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// assert_eq!(handle.wait().id(), handle.id());
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
    /// let record = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// assert_eq!(record.name(), "work");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name(&self) -> &str {
        &self.task.name
    }

    /// How the job ended: always a finished state.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job, JobState};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let record = delegator.submit(Job::new("broken", |_| Err("no disk".into())))?.wait();
    /// assert_eq!(record.state(), JobState::Failed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn state(&self) -> JobState {
        self.task.ended()
    }

    /// What the operation returned, if it completed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let record = delegator.submit(Job::new("answer", |_| Ok(vec![42])))?.wait();
    /// assert_eq!(record.payload(), Some(&[42][..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn payload(&self) -> Option<&[u8]> {
        self.result().ok()
    }

    /// Why the job did not complete; `None` if it did.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let record = delegator.submit(Job::new("broken", |_| Err("no disk".into())))?.wait();
    /// assert_eq!(record.error().map(|error| error.to_string()).as_deref(), Some("no disk"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn error(&self) -> Option<&Error> {
        self.result().err()
    }

    /// The payload or the error.
    ///
    /// # Errors
    ///
    /// What [`error`](JobRecord::error) gives.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let record = delegator.submit(Job::new("answer", |_| Ok(vec![42])))?.wait();
    /// assert_eq!(record.result().map(<[u8]>::len).map_err(ToString::to_string), Ok(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn result(&self) -> Result<&[u8], &Error> {
        self.outcome().result.as_deref()
    }

    /// How often the job was started; more than once only if it was [tried again](crate::Job::with_retry).
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let record = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// assert_eq!(record.attempts(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn attempts(&self) -> u32 {
        self.task.attempts()
    }

    /// The attempts before the last, oldest first. The last is what the rest of the record tells of; a job that ended while
    /// it waited to be tried again has all its attempts here. Of more than 32 the last 32 are kept.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job, Retry};
    ///
    /// let delegator = Delegator::manual();
    /// let retry = Retry::fixed(Duration::from_secs(1)).max_attempts(3);
    /// let record = delegator.submit(Job::new("broken", |_| Err("no disk".into())).with_retry(retry))?.wait();
    /// let numbers: Vec<u32> = record.earlier_attempts().iter().map(|attempt| attempt.number()).collect();
    /// assert_eq!(numbers, [1, 2]);
    /// # Ok::<(), workpath::SubmitError>(())
    /// ```
    pub fn earlier_attempts(&self) -> Vec<Attempt> {
        self.task.tries().into_kept()
    }

    /// Why a job with a [`Retry`](crate::Retry) that failed was not tried again; `None` for every other.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, GaveUp, Job, Retry};
    ///
    /// let delegator = Delegator::manual();
    /// let retry = Retry::fixed(Duration::from_secs(60));
    /// let job = Job::new("broken", |_| Err("no disk".into())).with_timeout(Duration::from_secs(5));
    /// let record = delegator.submit(job.with_retry(retry))?.wait();
    /// assert_eq!(record.gave_up(), Some(GaveUp::Deadline));
    /// # Ok::<(), workpath::SubmitError>(())
    /// ```
    pub fn gave_up(&self) -> Option<GaveUp> {
        if self.task.was_retried() { self.task.tries().gave_up } else { None }
    }

    /// When the [`Job`](crate::Job) was made, by the wall clock.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let record = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// assert!(record.created_at() <= record.completed_at());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn created_at(&self) -> SystemTime {
        self.task.wall.time(self.task.created)
    }

    /// When the operation started, the last time if it was tried again; `None` if it never did, or the job ended while it
    /// waited to be tried again.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let late = Job::new("late", |_| Ok(Vec::new())).with_timeout(Duration::ZERO);
    /// assert_eq!(delegator.submit(late)?.wait().started_at(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn started_at(&self) -> Option<SystemTime> {
        self.task.started().map(|started| self.task.wall.time(started))
    }

    /// When the job was finished.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let record = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// assert!(record.started_at().is_some_and(|started| started <= record.completed_at()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn completed_at(&self) -> SystemTime {
        self.task.wall.time(self.outcome().completed)
    }

    /// The time from creation to start, or to the end of a job that never started. Of a job that was tried again, everything
    /// before the last attempt counts.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let record = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// assert_eq!(record.queue_time() + record.run_time(), record.round_trip_time());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn queue_time(&self) -> Duration {
        self.task.queue_time()
    }

    /// The time that the operation took; zero if it never started. On a busy worker the start of one job is the end of the
    /// one before, so fetching it from the queue counts as part of it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let nap = Job::new("nap", |ctx| ctx.sleep(Duration::from_millis(5)).map(|()| Vec::new()));
    /// assert!(delegator.submit(nap)?.wait().run_time() >= Duration::from_millis(5));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run_time(&self) -> Duration {
        self.task.run_time()
    }

    /// The time from creation to the end.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let record = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// assert!(record.round_trip_time() >= record.run_time());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn round_trip_time(&self) -> Duration {
        self.task.round_trip_time()
    }

    /// By how much the operation ran past its deadline; `None` if it had none, kept it or never started.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use workpath::{Delegator, Job, JobState};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let stubborn = Job::new("stubborn", |ctx| {
    ///     while !ctx.is_done() {}
    ///     Ok(Vec::new())
    /// });
    /// let record = delegator.submit(stubborn.with_timeout(Duration::from_millis(5)))?.wait();
    /// assert_eq!(record.state(), JobState::Completed);
    /// assert!(record.overrun().is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn overrun(&self) -> Option<Duration> {
        self.task.overrun()
    }

    /// What the operation last said with [`Context::checkpoint`](crate::Context::checkpoint); `None` if it said nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let import = Job::new("import", |ctx| {
    ///     ctx.checkpoint("reading")?;
    ///     Err("no disk".into())
    /// });
    /// let record = delegator.submit(import)?.wait();
    /// assert_eq!(record.checkpoint().expect("there was one").text(), "reading");
    /// assert!(record.to_string().contains("\"reading\""));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.task.outcome_noted()?.checkpoint.map(|note| note.seen_by(self.task.wall))
    }

    /// What the operation last said with [`Context::progress`](crate::Context::progress); `None` if it said nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let record = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// assert_eq!(record.progress(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn progress(&self) -> Option<Progress> {
        self.task.outcome_noted()?.progress
    }

    /// The index of the worker that ran the job, the last time if it was tried again; `None` if it never started, ended
    /// while it waited to be tried again, or its submitter ran it
    /// ([`Overflow::CallerRuns`](crate::Overflow::CallerRuns)).
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let record = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// assert_eq!(record.worker(), Some(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn worker(&self) -> Option<usize> {
        self.task.worker()
    }
}

impl fmt::Display for JobRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&*self.task, f)
    }
}

impl fmt::Debug for JobRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobRecord")
            .field("id", &self.id())
            .field("name", &self.name())
            .field("state", &self.state())
            .field("worker", &self.worker())
            .field("queue_time", &self.queue_time())
            .field("run_time", &self.run_time())
            .field("error", &self.error())
            .finish_non_exhaustive()
    }
}

// A record never changes.
impl std::panic::UnwindSafe for JobRecord {}
impl std::panic::RefUnwindSafe for JobRecord {}
