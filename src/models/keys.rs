//! Jobs with one key against whoever else is about: they never run at the same time, keep their order, and each ends once;
//! the key is free in the end.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use loom::thread::spawn;

use super::{Rig, explore};
use crate::clock::Tick;
use crate::sync::Arc;
use crate::worker::Worker;
use crate::{Coalesced, Job, JobHandle, JobState, Retry};

/// Which jobs ran, in order; and whether one was in at the same time as another. Not part of the model.
#[derive(Clone, Default)]
struct Log(Arc<(AtomicUsize, Mutex<Vec<u8>>)>);

impl Log {
    fn job(&self, n: u8) -> Job {
        let log = self.clone();
        Job::new("job", move |_| log.put(n)).with_key("key")
    }

    /// The same, and it fails.
    fn broken(&self, n: u8) -> Job {
        let log = self.clone();
        Job::new("broken", move |_| log.put(n).and(Err("no".into()))).with_key("key")
    }

    fn put(&self, n: u8) -> Result<Vec<u8>, crate::Error> {
        assert_eq!(self.0.0.fetch_add(1, Ordering::Relaxed), 0, "two at a time");
        loom::thread::yield_now();
        self.0.1.lock().unwrap().push(n);
        self.0.0.fetch_sub(1, Ordering::Relaxed);
        Ok(vec![n])
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.1.lock().unwrap())
    }
}

fn check(rig: &Rig, accepted: u64) {
    rig.check_accounts(accepted);
    assert_eq!(rig.engine.keys_in_use(), (0, 0));
}

#[test]
fn two_workers() {
    explore(2, || {
        let (rig, log) = (Rig::new(2, 2), Log::default());
        let handles = [rig.accepted(log.job(1)), rig.accepted(log.job(2))];
        rig.close();
        let workers = [rig.worker(0), rig.worker(1)];
        let _ = workers.map(|worker| worker.join().unwrap());
        assert_eq!(log.take(), [1, 2]);
        assert!(handles.iter().all(|handle| handle.state() == JobState::Completed));
        check(&rig, 2);
    });
}

/// The one that is held back starts though the one before ends in the queue, and finds a worker though there is a drain.
#[test]
fn a_cancel_in_the_queue() {
    explore(3, || {
        let (rig, log) = (Rig::new(1, 2), Log::default());
        let (first, second) = (rig.accepted(log.job(1)), rig.accepted(log.job(2)));
        rig.close();
        let worker = rig.worker(0);
        let cancelled = first.cancel() && first.state() == JobState::Cancelled;
        worker.join().unwrap();
        assert_eq!(second.state(), JobState::Completed);
        assert_eq!(log.take(), if cancelled { vec![2] } else { vec![1, 2] });
        check(&rig, 2);
    });
}

/// It is taken out of those that are held back while the one before lets it start.
#[test]
fn a_cancel_of_the_held() {
    explore(3, || {
        let (rig, log) = (Rig::new(1, 2), Log::default());
        let (first, second) = (rig.accepted(log.job(1)), rig.accepted(log.job(2)));
        rig.close();
        let worker = rig.worker(0);
        second.cancel();
        worker.join().unwrap();
        assert_eq!(first.state(), JobState::Completed);
        assert!(second.state().is_finished());
        check(&rig, 2);
    });
}

/// A job that waits for one that is held back behind another worker's is told when that is over.
#[test]
fn a_wait_for_the_held() {
    explore(2, || {
        let (rig, log) = (Rig::new(2, 3), Log::default());
        let _first = rig.accepted(log.job(1));
        let inner = rig.accepted(log.job(2));
        let outer = {
            let inner: JobHandle = inner.clone();
            rig.accepted(Job::new("outer", move |_| Ok(inner.wait().payload().unwrap_or_default().to_vec())))
        };
        rig.close();
        let workers = [rig.worker(0), rig.worker(1)];
        let _ = workers.map(|worker| worker.join().unwrap());
        assert_eq!(outer.wait().payload(), Some(&[2][..]));
        assert_eq!(log.take(), [1, 2]);
        check(&rig, 3);
    });
}

#[test]
fn two_that_coalesce() {
    explore(2, || {
        let (rig, log) = (Rig::new(1, 2), Log::default());
        let other = {
            let (submitter, job) = (rig.submitter(), log.job(1));
            spawn(move || submitter.coalesce("key", job).expect("room"))
        };
        let own = rig.submitter().coalesce("key", log.job(2)).expect("room");
        let other = other.join().unwrap();
        rig.close();
        rig.worker(0).join().unwrap();
        // Nobody ran one before the other came.
        assert_eq!(own.handle().id(), other.handle().id());
        assert_ne!(matches!(own, Coalesced::Joined(_)), matches!(other, Coalesced::Joined(_)));
        assert_eq!(log.take().len(), 1);
        check(&rig, 1);
    });
}

#[test]
fn one_supersedes_another() {
    explore(2, || {
        let (rig, log) = (Rig::new(1, 2), Log::default());
        let first = rig.accepted(log.job(1));
        let worker = rig.worker(0);
        let second = rig.submitter().supersede("key", log.job(2)).expect("room");
        rig.close();
        worker.join().unwrap();
        assert!(first.state().is_finished());
        assert_eq!(second.state(), JobState::Completed);
        assert_eq!(log.take().last(), Some(&2));
        check(&rig, 2);
    });
}

/// A worker has taken a job out of the queue that another runs, out of turn; it fails, is due again, and waits for its
/// key by then: the first may not start it.
#[test]
fn an_old_place_against_the_key() {
    const SOON: Duration = Duration::from_secs(3600);
    explore(2, || {
        let (rig, log) = (Rig::new(2, 3), Log::default());
        let broken = rig.accepted(log.broken(1).with_retry(Retry::fixed(SOON).max_attempts(2)));
        let second = rig.accepted(log.job(2));
        let worker = rig.worker(0);
        let other = Worker::new(Arc::clone(&rig.engine), 1);
        other.act(|other| other.execute_inline(Arc::clone(&broken.task)));
        rig.engine.look_around(Tick::now().after(2 * SOON));
        rig.close();
        worker.join().unwrap();
        assert_eq!(second.state(), JobState::Completed);
        assert_eq!(log.take()[..2], [1, 2]);
    });
}
