//! A job that waits for another on its worker: it runs that other itself if it is still queued, and waits like anybody
//! if not. Whoever else wants the job meanwhile, it ends once and the wait returns.

use super::{Rig, Watch, explore};
use crate::{Job, JobState};

/// Waits for the first job from inside the second.
fn waiting(inner: &crate::JobHandle) -> Job {
    let inner = inner.clone();
    Job::new("outer", move |_| Ok(vec![u8::from(inner.wait().state() == JobState::Completed)]))
}

#[test]
fn the_only_worker() {
    explore(5, || {
        let (rig, watch) = (Rig::new(1, 2), Watch::default());
        let inner = rig.accepted(Job::new("first", |_| Ok(Vec::new())));
        let last = rig.engine.queue.try_pop().expect("the first");
        let outer = rig.accepted(waiting(&inner));
        let again = rig.engine.queue.try_push(last);
        assert!(again.is_ok(), "behind the one that waits for it");
        rig.close();
        let worker = rig.worker(0);
        assert_eq!(outer.wait().payload(), Some(&[1][..]));
        worker.join().unwrap();
        assert_eq!(inner.wait().worker(), Some(0));
        drop(watch);
        rig.check_accounts(2);
    });
}

#[test]
fn another_worker() {
    explore(2, || {
        let (rig, watch) = (Rig::new(2, 2), Watch::default());
        let inner = rig.accepted(watch.job("inner"));
        let outer = rig.accepted(waiting(&inner));
        rig.close();
        let workers = [rig.worker(0), rig.worker(1)];
        let _ = workers.map(|worker| worker.join().unwrap());
        assert_eq!(outer.wait().payload(), Some(&[1][..]));
        assert_eq!((watch.runs.get(), watch.drops.get()), (1, 1));
        rig.check_accounts(2);
    });
}

#[test]
fn another_worker_and_a_cancel() {
    explore(1, || {
        let (rig, watch) = (Rig::new(2, 2), Watch::default());
        let inner = rig.accepted(watch.job("inner"));
        let outer = rig.accepted(waiting(&inner));
        rig.close();
        let workers = [rig.worker(0), rig.worker(1)];
        let cancelled = inner.cancel();
        let _ = workers.map(|worker| worker.join().unwrap());
        let (inner, outer) = (inner.wait(), outer.wait());
        match inner.state() {
            JobState::Completed => assert_eq!((watch.runs.get(), outer.payload()), (1, Some(&[1][..]))),
            JobState::Cancelled => {
                assert!(cancelled);
                assert_eq!((watch.runs.get(), outer.payload()), (0, Some(&[0][..])));
            }
            other => panic!("{other}"),
        }
        assert_eq!(watch.drops.get(), 1);
        rig.check_accounts(2);
    });
}
