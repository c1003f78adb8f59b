//! A submission against the end of the delegator: the push, the phase, the second look of one side; the phase, the
//! sweep of the other. The job is refused and comes back whole, or is accepted and ends once; it is never both, and
//! never forgotten. The same for a job that its submitter runs.

use loom::thread::spawn;

use super::{Rig, Watch, explore};
use crate::handle::JobHandle;
use crate::{JobState, Overflow, Shutdown, SubmitError};

/// What a submission came to, when everything is over.
fn check(rig: &Rig, submitted: Result<JobHandle, SubmitError>, watch: &Watch, unstarted: usize) {
    match submitted {
        Err(SubmitError::ShutDown(job)) => {
            assert_eq!((watch.runs.get(), watch.drops.get()), (0, 0), "it comes back as it was");
            assert_eq!(unstarted, 0);
            drop(job);
            rig.check_accounts(0);
        }
        Err(other) => panic!("{other}"),
        Ok(handle) => {
            match handle.state() {
                JobState::Completed => assert_eq!((watch.runs.get(), unstarted), (1, 0)),
                // One that came too late for the report has ended all the same.
                JobState::Cancelled => assert!(watch.runs.get() == 0 && unstarted <= 1),
                other => panic!("{other} at the end"),
            }
            rig.check_accounts(1);
        }
    }
    assert_eq!(watch.drops.get(), 1);
}

#[test]
fn drain() {
    explore(2, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let worker = rig.worker(0);
        let submitter = {
            let (rig, watch) = (rig.clone(), watch.clone());
            spawn(move || rig.submit(watch.job("job")))
        };
        let report = rig.shut_down(Shutdown::drain());
        let submitted = submitter.join().unwrap();
        worker.join().unwrap();
        assert!(report.unstarted.is_empty() && report.stuck.is_empty());
        check(&rig, submitted, &watch, 0);
    });
}

#[test]
fn cancel() {
    explore(2, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let worker = rig.worker(0);
        let submitter = {
            let (rig, watch) = (rig.clone(), watch.clone());
            spawn(move || rig.submit(watch.job("job")))
        };
        let report = rig.shut_down(Shutdown::cancel());
        let submitted = submitter.join().unwrap();
        worker.join().unwrap();
        let unstarted = report.unstarted.len();
        if let Ok(handle) = &submitted {
            assert!(report.unstarted.iter().all(|job| job.id() == handle.id()));
            if handle.is_finished() {
                // Run, handed back, or dropped before its handle says that it is over.
                assert_eq!(watch.drops.get() + unstarted, 1);
            }
        }
        drop(report);
        check(&rig, submitted, &watch, unstarted);
    });
}

/// A submitter that waits for room is sent away.
#[test]
fn cancel_with_a_full_queue() {
    explore(1, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let first = Watch::default();
        let handle = rig.accepted(first.job("first"));
        let submitter = {
            let (rig, watch) = (rig.clone(), watch.clone());
            spawn(move || rig.submit(watch.job("second")))
        };
        let worker = rig.worker(0);
        let report = rig.shut_down(Shutdown::cancel());
        let submitted = submitter.join().unwrap();
        worker.join().unwrap();
        assert!(handle.is_finished());
        assert_eq!(first.drops.get(), first.runs.get());
        let unstarted = report.unstarted.len() - usize::from(first.runs.get() == 0);
        match &submitted {
            Ok(handle) => {
                assert!(handle.is_finished());
                assert_eq!(watch.drops.get() + unstarted, 1);
            }
            Err(_) => assert_eq!(watch.drops.get(), 0),
        }
        drop(report);
        assert_eq!(first.drops.get(), 1);
        match submitted {
            Ok(_) => {
                assert_eq!(watch.drops.get(), 1);
                rig.check_accounts(2);
            }
            Err(SubmitError::ShutDown(_)) => rig.check_accounts(1),
            Err(other) => panic!("{other}"),
        }
    });
}

#[test]
fn the_report_of_a_cancel() {
    explore(3, || {
        let (rig, watch) = (Rig::new(1, 2), Watch::default());
        let handles = [rig.accepted(watch.job("first")), rig.accepted(watch.job("second"))];
        let worker = rig.worker(0);
        let report = rig.shut_down(Shutdown::cancel());
        worker.join().unwrap();
        assert!(handles.iter().all(|handle| handle.is_finished()));
        // What was finished when the shutdown began is not in the report.
        assert!(report.completed <= watch.runs.get());
        assert_eq!(watch.runs.get() + report.unstarted.len(), 2);
        assert_eq!((report.failed, report.cancelled, report.stuck.len()), (0, 0, 0));
        rig.check_accounts(2);
    });
}

/// What a caller runs is either refused or over when the shutdown returns.
#[test]
fn a_caller_runs_and_a_drain() {
    explore(1, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let _queued = rig.accepted(watch.job("queued"));
        let caller = {
            let (submitter, job) = (rig.submitter(), watch.job("here"));
            spawn(move || submitter.submit_with(job, Overflow::CallerRuns).is_ok())
        };
        let worker = rig.worker(0);
        let report = rig.shut_down(Shutdown::drain());
        rig.check_accounts(watch.runs.get() as u64);
        assert!(report.stuck.is_empty() && report.unstarted.is_empty(), "{report:?}");
        let accepted = caller.join().unwrap();
        worker.join().unwrap();
        assert_eq!(watch.runs.get(), 1 + usize::from(accepted));
    });
}
