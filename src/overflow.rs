//! What becomes of a job that finds the queue full.

use std::fmt;
use std::time::Duration;

use crate::id::JobId;

/// What [`submit_with`](crate::Delegator::submit_with) does with a job for which there is no room in the queue.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job, Overflow};
///
/// let delegator = Delegator::builder().workers(1).queue_capacity(1).build()?;
/// for n in 0..100_u8 {
///     // The latest readings matter most.
///     let _ = delegator.submit_with(Job::new("reading", move |_| Ok(vec![n])), Overflow::DropOldest)?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// Waits for room: [`submit`](crate::Delegator::submit).
    Block,
    /// Refuses it at once: [`try_submit`](crate::Delegator::try_submit).
    Fail,
    /// Waits for room for so long: [`submit_timeout`](crate::Delegator::submit_timeout).
    Timeout(Duration),
    /// Runs it on the calling thread, before the call returns: who submits faster than the workers work, works too.
    ///
    /// The job is one like any other: it runs under its context and the delegator's, its panic is contained, it is in the
    /// registry and in the numbers, and a shutdown cancels it and waits for it. One with a [key](crate::Job::with_key) that
    /// is taken waits for room instead. But it runs on no worker: [`JobRecord::worker`](crate::JobRecord::worker) is `None`,
    /// [`Event::Started`](crate::Event::Started) and [`WorkerStatus`](crate::WorkerStatus) have an index past those of the
    /// workers and the name of the calling thread, and the hooks of workers are not called. It must not wait for what the
    /// caller is to do, nor for a lock that the caller holds.
    CallerRuns,
    /// Makes room: of the jobs of the same [priority](crate::Priority) that wait in the queue, the one that has waited
    /// longest ends [`Cancelled`](crate::JobState::Cancelled), with [`Displaced::Dropped`] as the cause, and
    /// [`Stats::dropped`](crate::Stats::dropped) counts it. It is dropped, with what it captured, on the calling
    /// thread. Jobs that run or are [scheduled](crate::Job::with_delay) stay, and those of normal priority that came
    /// due when all places were taken: they have none to give. Those of normal priority with a
    /// [key](crate::Job::with_key) are a level of their own; one that could start gives way before one that its key
    /// holds back.
    ///
    /// It never waits. Submitters that wait for room are overtaken. With a [capacity](crate::Builder::queue_capacity) of
    /// zero nothing waits in the queue, so that nothing can give way: this is `Fail` then.
    DropOldest,
}

/// Why a job was cancelled in favour of another: the cause in its error, which [`Error::get_ref`](crate::Error::get_ref)
/// gives.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Displaced, Job, Overflow};
///
/// let delegator = Delegator::builder().queue_capacity(1).manual()?;
/// let old = delegator.submit(Job::new("old", |_| Ok(Vec::new())))?;
/// let new = delegator.submit_with(Job::new("new", |_| Ok(Vec::new())), Overflow::DropOldest)?;
/// let error = old.join().unwrap_err();
/// let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Displaced>());
/// assert_eq!(cause, Some(&Displaced::Dropped { by: new.id() }));
/// assert_eq!(error.to_string(), format!("cancelled: dropped from the full queue for job {}", new.id()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Displaced {
    /// It gave its place in a full queue to this job: see [`Overflow::DropOldest`].
    Dropped {
        /// The job that has its place.
        by: JobId,
    },
    /// This later job has the same key and replaces it: see [`Delegator::supersede`](crate::Delegator::supersede).
    Superseded {
        /// The later job.
        by: JobId,
    },
}

impl fmt::Display for Displaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Displaced::Dropped { by } => write!(f, "dropped from the full queue for job {by}"),
            Displaced::Superseded { by } => write!(f, "superseded by job {by}"),
        }
    }
}

impl std::error::Error for Displaced {}
