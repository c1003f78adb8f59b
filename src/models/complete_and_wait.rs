//! A running job and those who wait for it: the flag that asks to be woken, the publication, the wake-up. A wait that
//! returns finds the captures dropped, the record filed and the numbers right; nobody sleeps on.

use crossbeam_channel::TryRecvError;
use loom::thread::spawn;

use super::{Rig, Watch, explore};
use crate::clock::Tick;
use crate::handle::JobHandle;
use crate::{Context, Job, JobState};

/// What is so once a job is seen finished.
fn check(rig: &Rig, handle: &JobHandle, watch: &Watch) {
    assert_eq!(handle.state(), JobState::Completed);
    assert_eq!((watch.runs.get(), watch.drops.get()), (1, 1), "captures before publication");
    let record = handle.try_wait().expect("finished");
    assert_eq!(record.payload(), Some(&[1][..]));
    let filed = rig.engine.registry.get(handle.id()).expect("the registry before the waiters");
    assert_eq!(filed.state(), JobState::Completed);
    rig.check_accounts(1);
}

#[test]
fn two_waiters() {
    explore(2, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let handle = rig.accepted(watch.job("job"));
        rig.close();
        let worker = rig.worker(0);
        let other = {
            let (rig, handle, watch) = (rig.clone(), handle.clone(), watch.clone());
            spawn(move || {
                assert_eq!(handle.wait().state(), JobState::Completed);
                check(&rig, &handle, &watch);
            })
        };
        assert_eq!(handle.wait().payload(), Some(&[1][..]));
        check(&rig, &handle, &watch);
        other.join().unwrap();
        worker.join().unwrap();
    });
}

#[test]
fn observer() {
    explore(5, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let handle = rig.accepted(watch.job("job"));
        rig.close();
        let worker = rig.worker(0);
        // The first look is always early.
        if handle.is_finished() || handle.is_finished() {
            check(&rig, &handle, &watch);
        }
        if let Some(record) = rig.engine.registry.get(handle.id()) {
            assert_eq!(record.state(), JobState::Completed);
            assert!(handle.is_finished());
            check(&rig, &handle, &watch);
        }
        worker.join().unwrap();
        check(&rig, &handle, &watch);
    });
}

#[test]
fn receiver_and_waiter() {
    explore(4, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let handle = rig.accepted(watch.job("job"));
        rig.close();
        let worker = rig.worker(0);
        let done = handle.done();
        if done.try_recv() == Err(TryRecvError::Disconnected) {
            check(&rig, &handle, &watch);
        }
        handle.wait();
        worker.join().unwrap();
        assert_eq!(done.try_recv(), Err(TryRecvError::Disconnected));
        assert_eq!(handle.done().try_recv(), Err(TryRecvError::Disconnected));
    });
}

/// A waiter that gives up takes itself off the list, and one that stays is woken all the same.
#[test]
fn waiter_that_gives_up() {
    explore(2, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let handle = rig.accepted(watch.job("job"));
        rig.close();
        let worker = rig.worker(0);
        let patient = {
            let handle = handle.clone();
            spawn(move || assert_eq!(handle.wait().state(), JobState::Completed))
        };
        let soon = Tick::now().after(std::time::Duration::from_millis(3));
        if let Some(record) = handle.wait_deadline(soon.instant().unwrap()) {
            assert_eq!(record.state(), JobState::Completed);
        }
        patient.join().unwrap();
        worker.join().unwrap();
        check(&rig, &handle, &watch);
    });
}

/// Nobody works here: a wait that has parked is woken by a cancel of the queued job's context, and ends the job itself.
#[test]
fn waiter_of_a_queued_job_and_its_context() {
    explore(5, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let (ctx, canceller) = Context::background().with_cancel();
        let handle = rig.accepted(watch.job("job").with_context(&ctx));
        let waiter = {
            let handle = handle.clone();
            spawn(move || handle.wait())
        };
        canceller.cancel();
        let record = waiter.join().unwrap();
        assert_eq!(record.state(), JobState::Cancelled);
        assert_eq!((watch.runs.get(), watch.drops.get()), (0, 1));
        rig.check_accounts(1);
    });
}

/// The same with its deadline, up to which both waiters park: nobody else would wake them.
#[test]
fn waiter_of_a_queued_job_and_its_deadline() {
    explore(2, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let soon = Tick::now().after(std::time::Duration::from_millis(20));
        let handle = rig.accepted(watch.job("job").with_deadline(soon.instant().unwrap()));
        let other = {
            let handle = handle.clone();
            spawn(move || handle.wait())
        };
        assert_eq!(handle.wait().state(), JobState::TimedOut);
        assert_eq!(other.join().unwrap().state(), JobState::TimedOut);
        assert_eq!((watch.runs.get(), watch.drops.get()), (0, 1));
        rig.check_accounts(1);
    });
}

/// The same with `cancel()` on the handle, and a receiver.
#[test]
fn waiter_of_a_queued_job_and_its_cancel() {
    explore(3, || {
        let rig = Rig::new(1, 1);
        let handle = rig.accepted(Job::new("job", |_| Ok(Vec::new())));
        let waiter = {
            let handle = handle.clone();
            spawn(move || handle.wait())
        };
        let done = handle.done();
        assert!(handle.cancel());
        assert_eq!(done.try_recv(), Err(TryRecvError::Disconnected));
        assert_eq!(waiter.join().unwrap().state(), JobState::Cancelled);
    });
}
