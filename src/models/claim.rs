//! A queued job and those who want it: the worker that took it from the queue, a `cancel()`, whoever notices its deadline.
//! One of them gets it; the operation and what it captured are run and dropped once.

use loom::thread::spawn;

use super::{Rig, Watch, explore};
use crate::JobState;
use crate::clock::Tick;
use crate::handle::JobHandle;
use crate::sync::{Arc, AtomicBool, Ordering};

fn check(handle: &JobHandle, watch: &Watch, cancelled: bool) {
    let record = handle.wait();
    assert_eq!(watch.drops.get(), 1);
    match record.state() {
        JobState::Completed => {
            assert_eq!((watch.runs.get(), record.worker()), (1, Some(0)));
            assert!(record.payload().is_some());
        }
        JobState::Cancelled => {
            assert!(cancelled);
            assert_eq!(watch.runs.get(), 0);
            assert!(record.error().is_some_and(|error| error.is_cancelled()));
        }
        JobState::TimedOut => {
            assert_eq!(watch.runs.get(), 0);
            assert!(record.error().is_some_and(|error| error.is_timeout()));
        }
        other => panic!("{other}"),
    }
    assert!(!handle.cancel());
}

#[test]
fn worker_and_cancel() {
    explore(5, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let handle = rig.accepted(watch.job("job"));
        rig.close();
        let worker = rig.worker(0);
        let cancelled = handle.cancel();
        if handle.state() == JobState::Cancelled {
            assert_eq!(watch.drops.get(), 1);
        }
        assert!(cancelled || watch.runs.get() == 1, "a cancel that came too late came after the operation");
        worker.join().unwrap();
        check(&handle, &watch, cancelled);
        rig.check_accounts(1);
    });
}

#[test]
fn worker_and_two_cancels() {
    explore(3, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let handle = rig.accepted(watch.job("job"));
        rig.close();
        let worker = rig.worker(0);
        let also = handle.clone();
        let canceller = spawn(move || also.cancel_with("one"));
        let mine = handle.cancel_with("two");
        let theirs = canceller.join().unwrap();
        worker.join().unwrap();
        if handle.state() == JobState::Cancelled {
            assert!(mine != theirs, "one of them ended it");
            let error = handle.try_wait().and_then(|record| record.error().cloned()).unwrap();
            let cause = error.get_ref().expect("given").to_string();
            assert_eq!(cause, if mine { "two" } else { "one" });
        }
        check(&handle, &watch, mine || theirs);
        rig.check_accounts(1);
    });
}

#[test]
fn worker_and_deadline_and_cancel() {
    explore(3, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let soon = Tick::now().after(std::time::Duration::from_millis(6));
        let handle = rig.accepted(watch.job("job").with_deadline(soon.instant().unwrap()));
        rig.close();
        let worker = rig.worker(0);
        let also = handle.clone();
        let observer = spawn(move || {
            // Looks at the clock as well.
            let _ = also.state();
            let _ = also.state();
        });
        let cancelled = handle.cancel();
        observer.join().unwrap();
        worker.join().unwrap();
        check(&handle, &watch, cancelled);
        rig.check_accounts(1);
    });
}

/// The timer ends the job and leaves the captures to whoever looks next.
#[test]
fn worker_and_timer() {
    explore(5, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let soon = Tick::now().after(std::time::Duration::from_millis(8));
        let handle = rig.accepted(watch.job("job").with_deadline(soon.instant().unwrap()));
        rig.close();
        let worker = rig.worker(0);
        // Looks at the clock each time, so it is the right time soon.
        (0..6).for_each(|_| handle.task.timer_fired());
        if handle.state() == JobState::TimedOut {
            // A worker may be at what the timer left.
            handle.wait();
            assert_eq!(watch.drops.get(), 1, "who waits finds what the timer left dropped");
        }
        worker.join().unwrap();
        check(&handle, &watch, false);
        rig.check_accounts(1);
    });
}

/// The timer has ended the job; a worker drops what it left, and somebody waits for it.
#[test]
fn worker_after_the_timer() {
    struct Slow(Arc<AtomicBool>);

    impl Drop for Slow {
        fn drop(&mut self) {
            // Others may come before this.
            self.0.store(true, Ordering::Relaxed);
        }
    }

    explore(4, || {
        let (rig, dropped) = (Rig::new(1, 1), Arc::new(AtomicBool::new(false)));
        let slow = Slow(Arc::clone(&dropped));
        let soon = Tick::now().after(std::time::Duration::from_millis(5));
        let job = crate::Job::new("job", move |_| {
            let _ = &slow;
            Ok(Vec::new())
        });
        let handle = rig.accepted(job.with_deadline(soon.instant().unwrap()));
        rig.close();
        (0..8).for_each(|_| handle.task.timer_fired());
        let worker = rig.worker(0);
        assert_eq!(handle.wait().state(), JobState::TimedOut);
        assert!(dropped.load(Ordering::Relaxed));
        worker.join().unwrap();
        rig.check_accounts(1);
    });
}

/// The timer ends the job, or a cancel does.
#[test]
fn timer_and_cancel() {
    explore(4, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let soon = Tick::now().after(std::time::Duration::from_millis(5));
        let handle = rig.accepted(watch.job("job").with_deadline(soon.instant().unwrap()));
        let timer = {
            let task = Arc::clone(&handle.task);
            spawn(move || {
                task.timer_fired();
                task.timer_fired();
            })
        };
        let cancelled = handle.cancel();
        timer.join().unwrap();
        check(&handle, &watch, cancelled);
        rig.check_accounts(1);
    });
}

/// What a worker shares between jobs is not shared with a cancel that comes late.
#[test]
fn cancel_and_the_next_job() {
    explore(4, || {
        let (rig, first, second) = (Rig::new(1, 2), Watch::default(), Watch::default());
        let cancelled = rig.accepted(first.job("first"));
        let next = rig.accepted({
            let runs = second.runs.clone();
            crate::Job::new("second", move |ctx| {
                runs.add();
                ctx.check().map(|()| Vec::new())
            })
        });
        rig.close();
        let worker = rig.worker(0);
        cancelled.cancel();
        worker.join().unwrap();
        assert_eq!(next.wait().state(), JobState::Completed);
        assert_eq!(second.runs.get(), 1);
        rig.check_accounts(2);
    });
}

/// The same when the job is over for certain.
#[test]
fn late_cancel_and_the_next_job() {
    explore(4, || {
        let (rig, first, second) = (Rig::new(1, 2), Watch::default(), Watch::default());
        let cancelled = rig.accepted(first.job("first"));
        let next = rig.accepted({
            let runs = second.runs.clone();
            crate::Job::new("second", move |ctx| {
                runs.add();
                ctx.check().map(|()| Vec::new())
            })
        });
        rig.close();
        let worker = rig.worker(0);
        cancelled.wait();
        assert!(!cancelled.cancel());
        worker.join().unwrap();
        assert_eq!(next.wait().state(), JobState::Completed);
        assert_eq!(second.runs.get(), 1);
        rig.check_accounts(2);
    });
}
