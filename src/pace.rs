//! How long jobs have run lately, for whoever wants to know how long the queue will take.

use std::time::Duration;

use crate::clock::Tick;
use crate::sync::{AtomicU64, Ordering, Padded};

/// One run counts for so much of the average of a worker.
const WEIGHT: u64 = 8;

/// An average per worker, in nanoseconds. Zero until the worker has run a job.
pub(crate) struct Pace {
    averages: Box<[Padded<AtomicU64>]>,
    /// How many of them work at the same time.
    workers: usize,
}

impl Pace {
    pub(crate) fn new(slots: usize, workers: usize) -> Pace {
        Pace { averages: std::iter::repeat_with(Padded::default).take(slots).collect(), workers }
    }

    /// A run on this worker, by the worker.
    pub(crate) fn record(&self, worker: usize, started: Option<Tick>, completed: Tick) {
        let (Some(average), Some(started)) = (self.averages.get(worker), started) else { return };
        let run = completed.since(started).unwrap_or_default();
        let run = u64::try_from(run.as_nanos()).unwrap_or(u64::MAX);
        let next = match average.load(Ordering::Relaxed) {
            0 => run,
            before => before - before / WEIGHT + run / WEIGHT,
        };
        average.store(next.max(1), Ordering::Relaxed);
    }

    /// How long the workers will take for so many jobs, as far as can be told.
    pub(crate) fn time_for(&self, jobs: usize) -> Duration {
        let known = self.averages.iter().map(|average| u128::from(average.load(Ordering::Relaxed)));
        let (sum, count) =
            known.filter(|nanos| *nanos > 0).fold((0, 0), |(sum, count), nanos| (sum + nanos, count + 1));
        let Some(mean) = u128::checked_div(sum, count) else { return Duration::ZERO };
        let nanos = mean.saturating_mul(jobs as u128) / self.workers.max(1) as u128;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn workers_share_the_time_and_those_that_have_run_nothing_say_nothing() {
        let pace = Pace::new(3, 2);
        assert_eq!(pace.time_for(10), Duration::ZERO);
        let start = Tick::now();
        pace.record(0, Some(start), start.after(Duration::from_secs(4)));
        assert_eq!(pace.time_for(10), Duration::from_secs(20));
        pace.record(1, Some(start), start.after(Duration::from_secs(2)));
        assert_eq!(pace.time_for(10), Duration::from_secs(15));
    }
}
