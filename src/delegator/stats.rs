//! The numbers of a delegator.

use crate::engine::Engine;
use crate::priority::Priority;
use crate::sync::Ordering;

/// The numbers of a delegator at one moment.
///
/// `submitted = scheduled + queued + running + completed + failed + panicked + cancelled + timed_out` whenever nothing is
/// changing.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job};
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
/// let stats = delegator.stats();
/// assert_eq!((stats.submitted, stats.completed, stats.queued), (1, 1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Jobs that wait for the time that they were given, or to be tried again.
    pub scheduled: usize,
    /// Jobs that wait for a worker.
    pub queued: usize,
    /// Jobs whose operation runs, on a worker or on the thread of their submitter, including those that wait for a job they
    /// run inline.
    pub running: usize,
    /// Those of them that were reported as stuck: see [`Builder::stuck_after`](crate::Builder::stuck_after).
    pub stuck: usize,
    /// Jobs that were accepted, ever.
    pub submitted: u64,
    /// Jobs whose operation returned `Ok`.
    pub completed: u64,
    /// Jobs whose operation returned an error of its own.
    pub failed: u64,
    /// Jobs whose operation panicked.
    pub panicked: u64,
    /// Jobs that were cancelled.
    pub cancelled: u64,
    /// Jobs whose deadline ended them.
    pub timed_out: u64,
    /// How often a job that had failed was put back to be tried again.
    pub retried: u64,
    /// Submissions that were refused, for whatever reason. They do not count as submitted.
    pub rejected: u64,
    /// Of the cancelled jobs, those that gave their places in the full queue to others: see
    /// [`Overflow::DropOldest`](crate::Overflow::DropOldest).
    pub dropped: u64,
    /// How many [keys](crate::Job::with_key) have jobs that are queued or run.
    pub keys: usize,
    /// The places that jobs take in the queue, by their priority. A job that ends there keeps its place until a worker
    /// has skipped it, so together they may be more than `queued`; and one that was [scheduled](crate::Job::with_delay)
    /// is queued also where all places are taken, so they may be more than there are.
    pub places: Places,
}

/// How many places in the queue jobs of each priority take.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job, Priority};
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// let handle = delegator.submit(Job::new("work", |_| Ok(Vec::new())).with_priority(Priority::Low))?;
/// assert!(delegator.stats().places.low <= 1);
/// handle.wait();
/// assert_eq!(delegator.stats().places.low, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Places {
    /// Jobs of [`Priority::High`](crate::Priority::High).
    pub high: usize,
    /// Jobs of [`Priority::Normal`](crate::Priority::Normal).
    pub normal: usize,
    /// Jobs of [`Priority::Low`](crate::Priority::Low).
    pub low: usize,
}

impl Stats {
    /// What has been counted since an earlier look at the same delegator. `queued`, `running`, `stuck`, `scheduled`,
    /// `keys` and `places` stay as they are: they are no counts of what happened.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let earlier = delegator.stats();
    /// delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// assert_eq!(delegator.stats().since(&earlier).completed, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn since(&self, earlier: &Stats) -> Stats {
        // What is not named is a level, not a count.
        Stats {
            submitted: self.submitted.saturating_sub(earlier.submitted),
            completed: self.completed.saturating_sub(earlier.completed),
            failed: self.failed.saturating_sub(earlier.failed),
            panicked: self.panicked.saturating_sub(earlier.panicked),
            cancelled: self.cancelled.saturating_sub(earlier.cancelled),
            timed_out: self.timed_out.saturating_sub(earlier.timed_out),
            retried: self.retried.saturating_sub(earlier.retried),
            rejected: self.rejected.saturating_sub(earlier.rejected),
            dropped: self.dropped.saturating_sub(earlier.dropped),
            ..*self
        }
    }
}

pub(super) fn stats(engine: &Engine) -> Stats {
    // In this order: a job that is finished in between is then at worst counted as running and finished, never as queued.
    let scheduled = engine.agenda.lock().len();
    let running = engine.running();
    let (submitted, counts) = engine.registry.accounts();
    let unfinished = submitted.saturating_sub(counts.finished());
    let queued = usize::try_from(unfinished).unwrap_or(usize::MAX).saturating_sub(running + scheduled);
    Stats {
        scheduled,
        queued,
        running,
        stuck: engine.stuck(),
        submitted,
        completed: counts.completed,
        failed: counts.failed,
        panicked: counts.panicked,
        cancelled: counts.cancelled,
        timed_out: counts.timed_out,
        retried: engine.retries.count(),
        rejected: engine.rejected.load(Ordering::Relaxed),
        dropped: engine.dropped.load(Ordering::Relaxed),
        keys: engine.keys_in_use().0,
        places: Places {
            high: engine.queue.len_at(Priority::High),
            normal: engine.queue.len_at(Priority::Normal),
            low: engine.queue.len_at(Priority::Low),
        },
    }
}
