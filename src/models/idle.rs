//! Waiting for nothing to be queued or running, against what ends that: the last job that is filed, a submission that is
//! refused.

use loom::thread::spawn;

use super::{Rig, Watch, explore};
use crate::clock::Tick;
use crate::sync;
use crate::{Job, JobState, Shutdown};

#[test]
fn the_last_job() {
    explore(5, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let handle = rig.accepted(watch.job("job"));
        rig.close();
        let worker = rig.worker(0);
        assert!(rig.engine.registry.wait_idle(Tick::NEVER, sync::park_until));
        assert_eq!((watch.runs.get(), watch.drops.get()), (1, 1));
        assert_eq!(handle.state(), JobState::Completed);
        worker.join().unwrap();
    });
}

#[test]
fn two_that_wait_and_a_cancel() {
    explore(4, || {
        let rig = Rig::new(1, 1);
        let handle = rig.accepted(Job::new("job", |_| Ok(Vec::new())));
        let other = {
            let rig = rig.clone();
            spawn(move || assert!(rig.engine.registry.wait_idle(Tick::NEVER, sync::park_until)))
        };
        let canceller = {
            let handle = handle.clone();
            spawn(move || handle.cancel())
        };
        assert!(rig.engine.registry.wait_idle(Tick::NEVER, sync::park_until));
        assert_eq!(handle.state(), JobState::Cancelled);
        assert!(canceller.join().unwrap());
        other.join().unwrap();
    });
}

/// A submission counts from before its push, so its refusal has to wake those who wait.
#[test]
fn a_refused_submission() {
    explore(5, || {
        let rig = Rig::new(1, 1);
        let first = rig.accepted(Job::new("first", |_| Ok(Vec::new())));
        let submitter = {
            let rig = rig.clone();
            spawn(move || {
                crate::delegator::parts::try_submit(&rig.engine, Job::new("job", |_| Ok(Vec::new()))).is_ok()
            })
        };
        first.cancel();
        assert!(rig.engine.registry.wait_idle(Tick::NEVER, sync::park_until));
        assert!(!submitter.join().unwrap(), "the place of the cancelled one is still taken");
        assert!(rig.engine.registry.wait_idle(Tick::NEVER, sync::park_until));
        rig.check_accounts(1);
    });
}

/// One that waits while a shutdown withdraws what a submitter has just pushed.
#[test]
fn a_shutdown() {
    explore(2, || {
        let rig = Rig::new(1, 1);
        let submitter = {
            let rig = rig.clone();
            spawn(move || {
                let _ = rig.submit(Job::new("job", |_| Ok(Vec::new())));
                assert!(rig.engine.registry.wait_idle(Tick::NEVER, sync::park_until));
            })
        };
        let idler = {
            let rig = rig.clone();
            spawn(move || assert!(rig.engine.registry.wait_idle(Tick::NEVER, sync::park_until)))
        };
        let _ = rig.shut_down(Shutdown::cancel().within(std::time::Duration::ZERO));
        submitter.join().unwrap();
        idler.join().unwrap();
    });
}
