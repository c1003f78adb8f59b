//! The order in which the end of a job becomes visible: what it owned is gone first, then the registry knows it, then
//! the numbers do, and only then does anybody who waits hear of it.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    BRIEF, Counter, DropFlag, Gate, delegator, eventually, fired, occupy, wait_fired, watchdog, yields,
};
use pool::{FORMS, assert_balanced, keeps, pause, sized};
use workpath::{Context, Delegator, Error, Job, JobHandle, JobState, Registry, Retention, Shutdown, Stats};

/// A value whose drop says that it has begun and takes until the gate opens.
struct SlowDrop {
    began: Gate,
    goes_on: Gate,
}

impl SlowDrop {
    /// The value, the gate that says it is being dropped, and the gate that lets the drop end.
    fn new() -> (SlowDrop, Gate, Gate) {
        let (began, goes_on) = (Gate::new(), Gate::new());
        (SlowDrop { began: began.clone(), goes_on: goes_on.clone() }, began, goes_on)
    }
}

impl Drop for SlowDrop {
    fn drop(&mut self) {
        self.began.open();
        self.goes_on.wait();
    }
}

/// An error with an owner's duty.
struct Owns<T>(T);

impl<T> fmt::Debug for Owns<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owns")
    }
}

impl<T> fmt::Display for Owns<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("owns")
    }
}

impl<T> std::error::Error for Owns<T> {}

/// Runs a closure when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A job that owns `kept` and ends with this.
fn ending(kept: impl Send + 'static, end: fn(&Context) -> Result<Vec<u8>, Error>) -> Job {
    Job::new("published", move |ctx| {
        let _owned = &kept;
        end(ctx)
    })
}

/// Checks that nobody can see the end of the job yet.
#[track_caller]
fn assert_unpublished(delegator: &Delegator, handle: &JobHandle) {
    assert!(!handle.is_finished());
    assert!(!handle.state().is_finished());
    assert!(handle.try_wait().is_none());
    assert!(handle.wait_timeout(BRIEF).is_none());
    assert!(!fired(&handle.done()));
    assert!(delegator.registry().get(handle.id()).is_none());
    assert!(delegator.registry().is_empty());
    let Stats { completed, failed, panicked, cancelled, timed_out, .. } = delegator.stats();
    assert_eq!((completed, failed, panicked, cancelled, timed_out), (0, 0, 0, 0, 0));
    assert!(!delegator.wait_idle_timeout(Duration::ZERO), "a delegator whose job has not ended is not idle");
}

/// Checks that everybody can see the end of the job.
#[track_caller]
fn assert_published(delegator: &Delegator, handle: &JobHandle, state: JobState) {
    assert_eq!(handle.state(), state);
    assert!(fired(&handle.done()));
    let known = delegator.registry().get(handle.id()).expect("the registry knows the job");
    assert_eq!(known.state(), state);
    let stats = delegator.stats();
    let count = match state {
        JobState::Completed => stats.completed,
        JobState::Failed => stats.failed,
        JobState::Panicked => stats.panicked,
        JobState::Cancelled => stats.cancelled,
        JobState::TimedOut => stats.timed_out,
        other => panic!("{other} is no end"),
    };
    assert_eq!((count, stats.queued), (1, 0));
}

#[test]
fn nothing_is_published_while_a_job_that_ran_drops_what_it_owns() {
    watchdog(|| {
        type End = fn(&Context) -> Result<Vec<u8>, Error>;
        let ends: [(End, JobState); 3] = [
            (|_| Ok(Vec::new()), JobState::Completed),
            (|_| Err("no".into()), JobState::Failed),
            (|_| panic!("no"), JobState::Panicked),
        ];
        for (end, state) in ends {
            let delegator = delegator(1);
            let (slow, began, goes_on) = SlowDrop::new();
            let handle = delegator.submit(ending(slow, end)).expect("room");
            let waiter = thread::spawn({
                let handle = handle.clone();
                move || handle.wait().state()
            });
            began.wait();
            assert_unpublished(&delegator, &handle);
            assert_eq!((handle.state(), delegator.stats().running), (JobState::Running, 1));
            assert!(!waiter.is_finished());
            goes_on.open();
            assert_eq!(waiter.join().unwrap(), state);
            assert_published(&delegator, &handle, state);
            assert_eq!(delegator.stats().running, 0);
        }
    });
}

#[test]
fn nothing_is_published_while_a_job_that_never_ran_drops_what_it_owns() {
    watchdog(|| {
        for late in [false, true] {
            let delegator = sized(1, 8);
            let busy = occupy(&delegator);
            let (slow, began, goes_on) = SlowDrop::new();
            let mut job = keeps("published", slow);
            if late {
                job = job.with_timeout(Duration::from_millis(1));
            }
            let handle = delegator.submit(job).expect("room");
            let ends_it = thread::spawn({
                let handle = handle.clone();
                move || {
                    if late {
                        handle.wait().state()
                    } else {
                        handle.cancel().then(|| handle.state()).expect("yes")
                    }
                }
            });
            began.wait();
            assert!(!handle.is_finished());
            assert!(handle.try_wait().is_none());
            assert!(!fired(&handle.done()));
            assert!(delegator.registry().is_empty());
            assert_eq!((delegator.stats().cancelled, delegator.stats().timed_out), (0, 0));
            assert!(!ends_it.is_finished());
            goes_on.open();
            let state = if late { JobState::TimedOut } else { JobState::Cancelled };
            assert_eq!(ends_it.join().unwrap(), state);
            assert_published(&delegator, &handle, state);
            assert_balanced(&delegator.stats());
            busy.release();
        }
    });
}

/// Looks again and again, closely at first, and leaves the processor to others when that takes long.
fn poll(mut holds: impl FnMut() -> bool) {
    for look in 0_u32.. {
        if holds() {
            return;
        }
        if look % 64 == 63 { thread::yield_now() } else { std::hint::spin_loop() }
    }
}

/// Waits in one way and says when the end is visible.
type Look = fn(&JobHandle);

const LOOKS: [Look; 8] = [
    |handle| drop(handle.wait()),
    |handle| drop(handle.wait_timeout(common::FOREVER).expect("in time")),
    |handle| drop(handle.wait_deadline(Instant::now() + common::FOREVER).expect("in time")),
    |handle| drop(handle.clone().join()),
    |handle| wait_fired(&handle.done()),
    |handle| poll(|| handle.is_finished()),
    |handle| poll(|| handle.state().is_finished()),
    |handle| poll(|| handle.try_wait().is_some()),
];

#[test]
fn whoever_sees_the_end_sees_everything_that_comes_before_it() {
    watchdog(|| {
        for look in LOOKS {
            let delegator = Arc::new(sized(1, 8));
            // Somebody who keeps the registry busy makes it late, should it not come first.
            let stop = Arc::new(AtomicBool::new(false));
            let reader = thread::spawn({
                let (delegator, stop) = (Arc::clone(&delegator), Arc::clone(&stop));
                move || {
                    while !stop.load(Ordering::Relaxed) {
                        drop(delegator.registry().records());
                        thread::yield_now();
                    }
                }
            });
            for round in 1..=25 {
                let (flag, dropped) = DropFlag::new();
                let handle = delegator.submit(keeps("seen", flag)).expect("room");
                look(&handle);
                assert!(dropped.is_open(), "it still owns something");
                assert!(delegator.registry().get(handle.id()).is_some(), "the registry does not know it");
                let stats = delegator.stats();
                assert_eq!((stats.completed, stats.running, stats.queued), (round, 0, 0));
                assert_eq!(handle.state(), JobState::Completed);
                assert!(handle.try_wait().is_some());
            }
            stop.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        }
    });
}

#[test]
fn whoever_waits_for_a_job_that_the_timer_ends_sees_it_gone() {
    watchdog(|| {
        let delegator = sized(1, 64);
        for round in 0..10_u64 {
            let busy = occupy(&delegator);
            let deadline = Instant::now() + Duration::from_micros(1_500 + round * 50);
            let jobs: Vec<_> = (0..20)
                .map(|_| {
                    let (flag, dropped) = DropFlag::new();
                    let job = keeps("late", flag).with_deadline(deadline);
                    let handle = delegator.submit(job).expect("room");
                    // From now on it is the timer's to end, unless somebody looks first.
                    (handle.done(), handle, dropped)
                })
                .collect();
            // Half of them are looked at while the timer is at it.
            let (watched, left): (Vec<_>, Vec<_>) =
                jobs.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
            thread::sleep(deadline.saturating_duration_since(Instant::now()));
            for (n, (_, handle, dropped)) in watched.iter().rev() {
                LOOKS[[0, 5, 6, 7][n / 2 % 4]](handle);
                assert!(dropped.is_open(), "it still owns something");
            }
            for (_, (done, handle, dropped)) in &left {
                wait_fired(done);
                assert_eq!(handle.wait().state(), JobState::TimedOut);
                assert!(dropped.is_open(), "it still owns something");
            }
            busy.release();
            delegator.wait_idle();
        }
    });
}

#[test]
fn the_state_and_the_record_become_visible_together() {
    watchdog(|| {
        let delegator = delegator(1);
        for _ in 0..200 {
            let handle = delegator.submit(yields("whole", "all of it")).expect("room");
            poll(|| handle.is_finished());
            let record = handle.try_wait().expect("a finished job has a record");
            assert_eq!((record.state(), record.payload()), (JobState::Completed, Some(&b"all of it"[..])));
            assert!(record.started_at().is_some() && record.worker().is_some());
        }
    });
}

#[test]
fn a_job_sees_all_that_ended_before_it_began() {
    watchdog(|| {
        let delegator = Arc::new(Delegator::builder().workers(1).queue_capacity(200).build().unwrap());
        let busy = occupy(&delegator);
        let handles: Vec<_> = (0..200_u64)
            .map(|n| {
                let observed = Arc::downgrade(&delegator);
                let job = Job::new("historian", move |_| {
                    let delegator = observed.upgrade().ok_or("no delegator")?;
                    let stats = delegator.stats();
                    // One for the job that kept the worker busy.
                    assert_eq!((stats.completed, stats.running), (n + 1, 1));
                    assert_eq!(delegator.registry().len() as u64, n + 1);
                    Ok(Vec::new())
                });
                delegator.submit(job).expect("room")
            })
            .collect();
        busy.release();
        assert!(handles.iter().all(|handle| handle.wait().state() == JobState::Completed));
    });
}

#[test]
fn a_done_context_is_published_before_submit_returns() {
    watchdog(|| {
        for form in FORMS {
            let delegator = delegator(1);
            let (flag, dropped) = DropFlag::new();
            let job = keeps("stillborn", flag).with_timeout(Duration::ZERO);
            let handle = pool::Door::enter(&delegator, form, job).expect("accepted");
            assert!(dropped.is_open());
            assert_published(&delegator, &handle, JobState::TimedOut);
        }
    });
}

#[test]
fn a_shutdown_has_published_everything_when_it_returns() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 8));
        let started = Gate::new();
        let running = delegator.submit(pool::obedient("running", &started)).expect("room");
        started.wait();
        let (flag, dropped) = DropFlag::new();
        let unstarted = delegator.submit(keeps("unstarted", flag)).expect("room");
        let waiter = thread::spawn({
            let (unstarted, delegator) = (unstarted.clone(), Arc::clone(&delegator));
            move || {
                let state = unstarted.wait().state();
                (state, delegator.registry().get(unstarted.id()).is_some(), delegator.stats().cancelled)
            }
        });
        pause();
        let report = delegator.shutdown(Shutdown::cancel());
        assert_eq!(report.unstarted.len(), 1);
        let (state, known, cancelled) = waiter.join().unwrap();
        assert_eq!((state, known), (JobState::Cancelled, true));
        assert!(cancelled >= 1);
        assert!(!dropped.is_open(), "a job that comes back keeps what it owns");
        for handle in [&running, &unstarted] {
            assert_eq!(handle.state(), JobState::Cancelled);
            assert!(delegator.registry().get(handle.id()).is_some());
        }
        assert_eq!(
            (delegator.stats().cancelled, delegator.stats().queued, delegator.stats().running),
            (2, 0, 0)
        );
        drop(report);
        assert!(dropped.is_open());
    });
}

#[test]
fn an_idle_delegator_has_published_everything() {
    watchdog(|| {
        let delegator = sized(2, 64);
        for round in 1..=100 {
            let dropped = Counter::new();
            let handles: Vec<_> = (0..5)
                .map(|_| {
                    delegator.submit(keeps("busy bee", common::CountOnDrop(dropped.clone()))).expect("room")
                })
                .collect();
            delegator.wait_idle();
            assert_eq!(dropped.get(), 5);
            assert!(handles.iter().all(JobHandle::is_finished));
            let stats = delegator.stats();
            assert_eq!((stats.completed, stats.queued, stats.running), (5 * round, 0, 0));
            assert!(handles.iter().all(|handle| delegator.registry().get(handle.id()).is_some()));
        }
    });
}

#[test]
fn no_lock_is_held_while_a_value_of_the_user_is_dropped() {
    /// Touches everything that might be locked.
    fn touch(delegator: &Delegator, own: &JobHandle) {
        let _stats = delegator.stats();
        let _workers = delegator.workers();
        let registry: &Registry = delegator.registry();
        let (_len, _records) = (registry.len(), registry.records());
        let _removed = registry.remove(own.id());
        let _state = (own.state(), own.try_wait(), own.cancel(), own.done());
        let _texts = format!("{delegator:?} {own:?}");
        let _idle = delegator.wait_idle_timeout(Duration::ZERO);
        let _other = delegator.try_submit(yields("from a drop", "")).map(|handle| handle.cancel());
    }

    watchdog(|| {
        for way in 0..4 {
            let delegator = Arc::new(
                Delegator::builder().workers(1).queue_capacity(8).retain(Retention::last(2)).build().unwrap(),
            );
            let busy = occupy(&delegator);
            let touched = Gate::new();
            let own: Arc<Mutex<Option<JobHandle>>> = Arc::default();
            let touches = OnDrop({
                let (delegator, own, touched) =
                    (Arc::downgrade(&delegator), Arc::clone(&own), touched.clone());
                move || {
                    let (Some(delegator), Some(own)) = (delegator.upgrade(), own.lock().unwrap().take())
                    else {
                        return;
                    };
                    touch(&delegator, &own);
                    touched.open();
                }
            });
            let (ctx, canceller) = Context::background().with_cancel();
            let handle = delegator.submit(keeps("touches", touches).with_context(&ctx)).expect("room");
            *own.lock().unwrap() = Some(handle.clone());
            match way {
                0 => busy.release(),
                1 => assert!(handle.cancel()),
                2 => {
                    canceller.cancel();
                    assert_eq!(handle.wait().state(), JobState::Cancelled);
                }
                _ => {
                    canceller.cancel();
                    busy.release();
                }
            }
            touched.wait();
            assert!(handle.wait().state().is_finished());
            busy.release();
            delegator.wait_idle();
            assert_balanced(&delegator.stats());
        }
    });
}

#[test]
fn no_lock_is_held_while_an_evicted_record_is_dropped() {
    watchdog(|| {
        let delegator =
            Delegator::builder().workers(2).queue_capacity(8).retain(Retention::last(1)).build().unwrap();
        let (slow, began, goes_on) = SlowDrop::new();
        let slow = Mutex::new(Some(slow));
        let job = Job::new("to be evicted", move |_| Err(Error::new(Owns(slow.lock().unwrap().take()))));
        let handle = delegator.submit(job).expect("room");
        assert_eq!(handle.wait().state(), JobState::Failed);
        drop(handle);
        let evicts = delegator.submit(yields("evicts", "")).expect("room");
        began.wait();
        // One worker is still busy with the drop. The rest of the world goes on.
        assert_eq!(delegator.registry().len(), 1);
        assert_eq!(delegator.registry().records().len(), 1);
        assert_eq!(delegator.submit(yields("other", "")).expect("room").wait().state(), JobState::Completed);
        let _stats = delegator.stats();
        goes_on.open();
        assert_eq!(evicts.wait().state(), JobState::Completed);
    });
}

#[test]
fn no_lock_is_held_while_removed_records_are_dropped() {
    watchdog(|| {
        let ways: [fn(&Registry, JobHandle); 2] = [
            |registry, handle| {
                let id = handle.id();
                drop(handle);
                drop(registry.remove(id));
            },
            |registry, handle| {
                drop(handle);
                registry.clear();
            },
        ];
        for way in ways {
            // One worker more than needed: it may be the worker of the job who lets go of it last.
            let delegator = Arc::new(delegator(2));
            let (slow, began, goes_on) = SlowDrop::new();
            let slow = Mutex::new(Some(slow));
            let job = Job::new("to be removed", move |_| Err(Error::new(Owns(slow.lock().unwrap().take()))));
            let handle = delegator.submit(job).expect("room");
            assert_eq!(handle.wait().state(), JobState::Failed);
            let removing = thread::spawn({
                let delegator = Arc::clone(&delegator);
                // The last owner of the record goes away inside the call.
                move || way(delegator.registry(), handle)
            });
            began.wait();
            assert!(delegator.registry().is_empty());
            assert_eq!(
                delegator.submit(yields("other", "")).expect("room").wait().state(),
                JobState::Completed
            );
            assert_eq!(delegator.registry().len(), 1);
            goes_on.open();
            removing.join().unwrap();
        }
    });
}

#[test]
fn the_destructor_of_a_job_may_wait_for_another_job() {
    watchdog(|| {
        let delegator = sized(2, 8);
        let (started, release) = (Gate::new(), Gate::new());
        let other = delegator.submit(common::gated("other", &started, &release)).expect("room");
        started.wait();
        let waited = Gate::new();
        let waits = OnDrop({
            let (other, waited) = (other.clone(), waited.clone());
            move || {
                assert_eq!(other.wait().state(), JobState::Completed);
                waited.open();
            }
        });
        let handle = delegator.submit(keeps("waits in its drop", waits)).expect("room");
        pause();
        assert!(!handle.is_finished() && !waited.is_open());
        release.open();
        assert_eq!(handle.wait().state(), JobState::Completed);
        assert!(waited.is_open());
        eventually("the workers are free", || delegator.stats().running == 0);
    });
}
