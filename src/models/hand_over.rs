//! The end of a delegator, on its own thread: workers that leave their loops, shutdowns that wait for them, one that
//! gives up.

use loom::thread::spawn;
use std::time::Duration;

use super::{Watch, explore};
use crate::sync::Arc;
use crate::{Delegator, Job, JobState, Shutdown};

fn delegator(workers: usize) -> Delegator {
    Delegator::builder().workers(workers).queue_capacity(1).build().expect("threads")
}

#[test]
fn built_and_dropped() {
    explore(2, || drop(delegator(1)));
}

#[test]
fn a_job_and_a_drain() {
    explore(1, || {
        let (delegator, watch) = (delegator(1), Watch::default());
        let handle = delegator.submit(watch.job("job")).expect("room");
        let report = delegator.shutdown(Shutdown::drain());
        assert!(report.total() == report.completed && report.completed <= 1, "{report:?}");
        assert_eq!(handle.wait().state(), JobState::Completed);
        assert_eq!((watch.runs.get(), watch.drops.get()), (1, 1));
    });
}

#[test]
fn two_shutdowns_at_once() {
    explore(1, || {
        let delegator = Arc::new(delegator(1));
        let other = {
            let delegator = Arc::clone(&delegator);
            spawn(move || delegator.shutdown(Shutdown::drain()).total())
        };
        assert_eq!(delegator.shutdown(Shutdown::cancel()).total(), 0);
        assert_eq!(other.join().unwrap(), 0);
    });
}

#[test]
fn two_workers_and_a_cancel() {
    explore(1, || {
        let delegator = delegator(2);
        let report = delegator.shutdown(Shutdown::cancel());
        assert_eq!(report.total(), 0);
    });
}

/// The worker's operation does not return before the shutdown has given up on it.
#[test]
fn a_stuck_worker() {
    explore(1, || {
        let delegator = delegator(1);
        let (ctx, canceller) = crate::Context::background().with_cancel();
        let stuck = Job::new("stuck", move |_| ctx.sleep(Duration::MAX).map(|()| Vec::new()));
        let handle = delegator.submit(stuck).expect("room");
        while handle.state() == JobState::Queued {
            loom::thread::yield_now();
        }
        let report = delegator.shutdown(Shutdown::drain().within(Duration::ZERO));
        assert_eq!((report.stuck.len(), report.total()), (1, 1));
        canceller.cancel();
        assert_eq!(
            handle.wait().state(),
            JobState::Cancelled,
            "the shutdown has cancelled its own context too"
        );
    });
}
