//! The states of a job.

use std::fmt;

/// Where a job is in its life.
///
/// `Queued → Running → {Completed | Failed | Panicked | Cancelled | TimedOut}`, or straight from `Queued` to
/// `Cancelled` or `TimedOut`. A job with a time to start at is `Scheduled` before it is `Queued`, and so is one that is
/// tried again after it was `Running`. Finished states are final.
///
/// # Examples
///
/// ```
/// use workpath::JobState;
///
/// assert!(!JobState::Running.is_finished());
/// assert!(JobState::TimedOut.is_finished());
/// assert_eq!(JobState::TimedOut.to_string(), "timed out");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobState {
    /// Accepted, waiting for the time that it was given, or to be tried again.
    Scheduled,
    /// Accepted, waiting for a worker.
    Queued,
    /// A worker runs its operation.
    Running,
    /// The operation returned `Ok`.
    Completed,
    /// The operation returned an error of its own.
    Failed,
    /// The operation panicked.
    Panicked,
    /// Cancelled before it started, or the operation gave up because of a cancel.
    Cancelled,
    /// Its deadline passed before it started, or the operation gave up because of the deadline.
    TimedOut,
}

impl JobState {
    /// Whether the job has its outcome. A finished job stays as it is.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::JobState;
    ///
    /// assert!(JobState::Completed.is_finished());
    /// assert!(!JobState::Queued.is_finished());
    /// ```
    pub const fn is_finished(self) -> bool {
        !matches!(self, JobState::Scheduled | JobState::Queued | JobState::Running)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            JobState::Scheduled => "scheduled",
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Completed => "completed",
            JobState::Failed => "failed",
            JobState::Panicked => "panicked",
            JobState::Cancelled => "cancelled",
            JobState::TimedOut => "timed out",
        })
    }
}
