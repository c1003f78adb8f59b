//! Panics of every kind and in every place: they hurt the job they belong to and nothing else.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::panic::{self, AssertUnwindSafe, panic_any};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use common::{
    BRIEF, Counter, DropFlag, Gate, PanicOnDrop, delegator, eventually, occupy, panics, watchdog, yields,
};
use pool::{assert_balanced, assert_threads_gone, covered, fill, keeps, own_name, pause, sized};
use workpath::{Context, Delegator, Error, ErrorKind, Job, JobState, Operation, Retention, Shutdown};

/// A panic payload whose drop panics with another one, so many levels deep.
struct Bomb(u32);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 > 0 {
            panic_any(Bomb(self.0 - 1));
        }
    }
}

/// A value whose drop panics with a [`Bomb`].
struct BombOnDrop(u32);

impl Drop for BombOnDrop {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic_any(Bomb(self.0));
        }
    }
}

/// An error whose drop panics.
#[derive(Debug)]
struct BadError(#[expect(dead_code, reason = "owned for its drop")] PanicOnDrop);

impl fmt::Display for BadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bad error")
    }
}

impl std::error::Error for BadError {}

/// Lets nothing out of `body`, not even a payload that panics when it is dropped.
fn contain(body: impl FnOnce()) {
    if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(body)) {
        std::mem::forget(payload);
    }
}

/// Checks that all workers still work, all at the same time.
#[track_caller]
fn assert_all_at_work(delegator: &Delegator) {
    let workers = delegator.workers().len();
    let barrier = Arc::new(Barrier::new(workers));
    let handles: Vec<_> = (0..workers)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            let job = Job::new("roll call", move |_| {
                barrier.wait();
                Ok(Vec::new())
            });
            delegator.submit(job).expect("room")
        })
        .collect();
    for handle in handles {
        let record = handle.wait_timeout(common::PATIENCE).expect("a worker is missing");
        assert_eq!(record.state(), JobState::Completed);
    }
}

#[test]
fn a_panic_with_any_payload_ends_the_job_and_not_the_worker() {
    watchdog(|| {
        type Throw = fn();
        let throws: [(Throw, Option<&str>); 11] = [
            (|| panic!("a plain text"), Some("a plain text")),
            (|| panic!("a number: {}", 5), Some("a number: 5")),
            (|| panic_any(String::from("an owned text")), Some("an owned text")),
            (|| panic_any("a borrowed text"), Some("a borrowed text")),
            (|| panic::resume_unwind(Box::new("thrown again")), Some("thrown again")),
            (|| panic_any(17_u64), None),
            (|| panic_any(()), None),
            (|| panic_any(Box::new(Error::new("boxed")) as Box<dyn Any + Send>), None),
            (|| drop(std::env::var("no\u{1f980}such").expect("nothing here")), Some("nothing here")),
            (|| drop(Vec::<u8>::with_capacity(std::hint::black_box(usize::MAX))), Some("capacity overflow")),
            (|| panic_any(Bomb(0)), None),
        ];
        let delegator = delegator(1);
        for (n, (throw, text)) in (1..).zip(throws) {
            let handle = delegator
                .submit(Job::new("throws", move |_| {
                    throw();
                    Ok(Vec::new())
                }))
                .expect("room");
            let record = handle.wait();
            assert_eq!((record.state(), record.payload()), (JobState::Panicked, None));
            assert!(record.started_at().is_some() && record.worker() == Some(0));
            let error = record.error().expect("a panic is an error");
            assert!(error.is_panic() && !error.is_cancelled() && !error.is_timeout());
            assert_eq!(error.kind(), ErrorKind::Panicked);
            let shown = error.to_string();
            assert!(!shown.is_empty() && shown.contains(text.unwrap_or("")), "{shown:?} hides {text:?}");
            assert!(record.to_string().contains(text.unwrap_or("")), "{record}");
            assert_eq!(delegator.stats().panicked, n);
        }
        assert_eq!(delegator.submit(yields("after", "well")).expect("room").join().unwrap(), b"well");
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn a_payload_whose_drop_panics_over_and_over_is_contained() {
    watchdog(|| {
        let delegator = delegator(2);
        for depth in [1, 2, 3, 30] {
            let job = Job::new("bomb", move |_| panic_any(Bomb(depth)));
            assert_eq!(delegator.submit(job).expect("room").wait().state(), JobState::Panicked);
        }
        assert_all_at_work(&delegator);
        delegator.shutdown(Shutdown::drain());
    });
}

#[test]
fn a_panic_on_every_worker_costs_no_worker() {
    watchdog(|| {
        let delegator = sized(4, 64);
        for _ in 0..3 {
            let barrier = Arc::new(Barrier::new(4));
            let handles: Vec<_> = (0..4)
                .map(|_| {
                    let barrier = Arc::clone(&barrier);
                    let job = Job::new("all fall down", move |_| {
                        barrier.wait();
                        panic!("down");
                    });
                    delegator.submit(job).expect("room")
                })
                .collect();
            assert!(handles.iter().all(|handle| handle.wait().state() == JobState::Panicked));
            assert_all_at_work(&delegator);
        }
        assert_eq!((delegator.stats().panicked, delegator.stats().completed), (12, 12));
    });
}

#[test]
fn the_neighbours_of_a_panic_are_not_touched() {
    watchdog(|| {
        let delegator = sized(2, 64);
        let (first, second) = (occupy(&delegator), occupy(&delegator));
        let handles: Vec<_> = (0..20)
            .map(|n| {
                delegator
                    .submit(if n % 3 == 1 { panics("bad", "ouch") } else { yields("good", [n]) })
                    .unwrap()
            })
            .collect();
        first.release();
        second.release();
        for (n, handle) in (0_u8..).zip(handles) {
            let record = handle.wait();
            if n % 3 == 1 {
                assert_eq!(record.state(), JobState::Panicked);
            } else {
                assert_eq!(record.payload(), Some(&[n][..]));
            }
        }
    });
}

#[test]
fn a_delegator_can_be_dropped_while_jobs_panic() {
    watchdog(|| {
        let name = own_name();
        let delegator =
            Delegator::builder().workers(2).queue_capacity(16).thread_name(name.as_str()).build().unwrap();
        let (first, second) = (occupy(&delegator), occupy(&delegator));
        let handles: Vec<_> = (0..10)
            .map(|_| delegator.submit(Job::new("late", |_| panic_any(Bomb(2)))).expect("room"))
            .collect();
        let closing = thread::spawn(move || drop(delegator));
        pause();
        first.release();
        second.release();
        closing.join().expect("the drop must not panic");
        assert!(handles.iter().all(|handle| handle.state() == JobState::Panicked));
        assert_threads_gone(&name);
    });
}

#[test]
fn a_captured_value_that_panics_in_its_drop_does_not_change_the_outcome() {
    watchdog(|| {
        let delegator = delegator(1);
        type End = fn(&Context) -> Result<Vec<u8>, Error>;
        let ends: [(End, JobState); 3] = [
            (|_| Ok(b"result".to_vec()), JobState::Completed),
            (|_| Err("the real reason".into()), JobState::Failed),
            (|_| panic!("the real reason"), JobState::Panicked),
        ];
        for (end, state) in ends {
            let text = PanicOnDrop("dropped");
            let plain = Job::new("untidy", move |ctx| {
                let _owned = &text;
                end(ctx)
            });
            let nested = BombOnDrop(3);
            let nested = Job::new("untidy", move |ctx| {
                let _owned = &nested;
                end(ctx)
            });
            for job in [plain, nested] {
                let record = delegator.submit(job).expect("room").wait();
                assert_eq!(record.state(), state);
                assert_eq!(record.payload(), (state == JobState::Completed).then_some(&b"result"[..]));
                if state != JobState::Completed {
                    assert!(record.error().expect("an error").to_string().contains("the real reason"));
                }
            }
        }
        assert_all_at_work(&delegator);
        let stats = delegator.stats();
        assert_eq!((stats.completed, stats.failed, stats.panicked), (3, 2, 2));
        assert_balanced(&stats);
    });
}

#[test]
fn a_captured_value_that_panics_in_its_drop_does_not_unwind_out_of_cancel() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let first = delegator.submit(keeps("untidy", PanicOnDrop("dropped"))).expect("room");
        let second = delegator.submit(keeps("untidy", BombOnDrop(3))).expect("room");
        for handle in [&first, &second] {
            assert!(handle.cancel());
            let record = handle.wait();
            assert_eq!(record.state(), JobState::Cancelled);
            assert!(record.error().is_some_and(Error::is_cancelled));
            assert!(delegator.registry().get(handle.id()).is_some());
        }
        assert_eq!(delegator.stats().cancelled, 2);
        busy.release();
        assert_all_at_work(&delegator);
    });
}

#[test]
fn a_captured_value_that_panics_in_its_drop_does_not_unwind_out_of_a_wait() {
    watchdog(|| {
        let delegator = sized(1, 16);
        let busy = occupy(&delegator);
        let (ctx, canceller) = Context::background().with_cancel();
        let job = || keeps("untidy", BombOnDrop(1)).with_context(&ctx);
        let handles: Vec<_> = (0..6).map(|_| delegator.submit(job()).expect("room")).collect();
        canceller.cancel();
        // Whoever looks first ends the job, and drops what it owns.
        assert_eq!(handles[0].state(), JobState::Cancelled);
        assert!(handles[1].is_finished());
        assert_eq!(handles[2].wait().state(), JobState::Cancelled);
        assert!(handles[3].try_wait().is_some());
        assert!(handles[4].wait_timeout(Duration::ZERO).is_some());
        assert!(!handles[5].cancel() || handles[5].is_finished());
        let deadline = keeps("untidy", BombOnDrop(1)).with_timeout(BRIEF);
        assert_eq!(delegator.submit(deadline).expect("room").wait().state(), JobState::TimedOut);
        let done_already = delegator.submit(job()).expect("accepted");
        assert_eq!(done_already.state(), JobState::Cancelled);
        busy.release();
        assert_all_at_work(&delegator);
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn captured_values_that_panic_in_their_drop_do_not_disturb_a_shutdown() {
    watchdog(|| {
        for (shutdown, patient) in [
            (Shutdown::drain(), true),
            (Shutdown::drain().within(common::FOREVER), true),
            (Shutdown::cancel(), true),
            (Shutdown::cancel().within(common::FOREVER), true),
            (Shutdown::drain().within(Duration::ZERO), false),
        ] {
            let name = own_name();
            let delegator = Arc::new(
                Delegator::builder()
                    .workers(1)
                    .queue_capacity(64)
                    .thread_name(name.as_str())
                    .build()
                    .unwrap(),
            );
            let busy = occupy(&delegator);
            let (cancelled, canceller) = Context::background().with_cancel();
            let deadline = std::time::Instant::now() + BRIEF;
            let mut handles = Vec::new();
            for _ in 0..5 {
                let jobs = [
                    keeps("runs", BombOnDrop(2)),
                    keeps("is cancelled", BombOnDrop(2)).with_context(&cancelled),
                    keeps("is late", PanicOnDrop("late")).with_deadline(deadline),
                    keeps("runs", PanicOnDrop("dropped")),
                ];
                handles.extend(jobs.map(|job| delegator.submit(job).expect("room")));
            }
            let closing = thread::spawn({
                let delegator = Arc::clone(&delegator);
                move || delegator.shutdown(shutdown)
            });
            pause();
            canceller.cancel();
            thread::sleep(deadline.saturating_duration_since(std::time::Instant::now()));
            busy.release();
            let report = closing.join().expect("a shutdown must not unwind");
            assert!(covered(&report) <= 21, "{report:?}");
            assert!(report.stuck.is_empty() || !patient, "{report:?}");
            // The jobs that come back still own their values; letting go of them is up to whoever asked.
            for job in report.unstarted {
                contain(|| drop(job));
            }
            assert!(handles.iter().all(|handle| handle.wait().state().is_finished()));
            eventually("all jobs have ended", || delegator.stats().running == 0);
            assert_balanced(&delegator.stats());
            assert_eq!(delegator.stats().submitted, 21);
            drop(delegator);
            assert_threads_gone(&name);
        }
    });
}

#[test]
fn a_captured_value_that_panics_in_its_drop_does_not_stop_the_drop_of_a_delegator() {
    watchdog(|| {
        let delegator = sized(1, 64);
        let busy = occupy(&delegator);
        let handles: Vec<_> =
            (0..10).map(|_| delegator.submit(keeps("untidy", BombOnDrop(2))).expect("room")).collect();
        let closing = thread::spawn(move || drop(delegator));
        pause();
        busy.release();
        closing.join().expect("the drop must not panic");
        assert!(handles.iter().all(|handle| handle.state() == JobState::Completed));
    });
}

#[test]
fn scheduled_jobs_that_panic_in_their_drop_do_not_unwind_out_of_the_drop_of_a_delegator() {
    let delegator = Delegator::manual();
    for _ in 0..3 {
        let job = keeps("untidy", PanicOnDrop("dropped")).with_delay(Duration::from_secs(1));
        drop(delegator.submit(job).expect("room"));
    }
    drop(delegator);
}

#[test]
fn a_context_value_that_panics_in_its_drop_hurts_no_worker() {
    watchdog(|| {
        let delegator = sized(1, 16);
        let busy = occupy(&delegator);
        let handles: Vec<_> = (0..4)
            .map(|_| {
                // Nobody but the job has this context.
                let ctx = Context::background().with_value("untidy", BombOnDrop(1));
                delegator.submit(yields("last owner", "well").with_context(&ctx)).expect("room")
            })
            .collect();
        busy.release();
        for handle in handles {
            assert_eq!(handle.wait().payload(), Some(&b"well"[..]));
            contain(|| drop(handle));
        }
        assert_all_at_work(&delegator);
    });
}

#[test]
fn an_error_that_panics_in_its_drop_hurts_no_worker_when_its_record_is_evicted() {
    watchdog(|| {
        let delegator =
            Delegator::builder().workers(1).queue_capacity(8).retain(Retention::last(1)).build().unwrap();
        for _ in 0..3 {
            let bad = Job::new("bad", |_| Err(Error::new(BadError(PanicOnDrop("evicted")))));
            let handle = delegator.submit(bad).expect("room");
            assert_eq!(handle.wait().state(), JobState::Failed);
            // From now on only the registry has the record.
            drop(handle);
            let handle = delegator.submit(yields("evicts", "fine")).expect("room");
            assert_eq!(handle.wait().payload(), Some(&b"fine"[..]));
            assert_eq!(delegator.registry().len(), 1);
            assert!(delegator.registry().get(handle.id()).is_some());
        }
        assert_all_at_work(&delegator);
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn an_error_that_panics_in_its_drop_hurts_no_worker_when_nobody_wants_the_record() {
    watchdog(|| {
        let delegator =
            Delegator::builder().workers(1).queue_capacity(8).retain(Retention::none()).build().unwrap();
        for _ in 0..3 {
            let bad = Job::new("bad", |_| Err(Error::new(BadError(PanicOnDrop("unwanted")))));
            drop(delegator.submit(bad).expect("room"));
        }
        delegator.wait_idle();
        assert_all_at_work(&delegator);
        assert_eq!(delegator.stats().failed, 3);
    });
}

#[test]
fn errors_that_panic_in_their_drop_do_not_unwind_out_of_the_drop_of_a_delegator() {
    let delegator = Delegator::manual();
    for _ in 0..3 {
        drop(delegator.submit(Job::new("bad", |_| Err(Error::new(BadError(PanicOnDrop("kept")))))));
    }
    assert_eq!(delegator.run_until_idle(), 3);
    drop(delegator);
}

#[test]
fn a_cause_that_panics_in_its_drop_changes_nothing() {
    watchdog(|| {
        let delegator =
            Delegator::builder().workers(1).queue_capacity(8).retain(Retention::none()).build().unwrap();
        let busy = occupy(&delegator);
        let handle = fill(&delegator, 1).remove(0);
        // The second cause is not wanted and goes away inside the call.
        assert!(handle.cancel_with("first"));
        assert!(!handle.cancel_with(BadError(PanicOnDrop("not wanted"))), "cancel() never unwinds");
        busy.release();
        assert_eq!(handle.wait().state(), JobState::Cancelled);
        assert_all_at_work(&delegator);
    });
}

#[test]
fn a_name_that_panics_hurts_nobody_but_its_caller() {
    struct Nameless;

    impl Operation for Nameless {
        fn run(&self, _: &Context) -> Result<Vec<u8>, Error> {
            Ok(b"ran".to_vec())
        }

        fn name(&self) -> Cow<'_, str> {
            panic!("no name")
        }
    }

    watchdog(|| {
        let delegator = delegator(1);
        let job = panic::catch_unwind(|| Job::from_operation(Nameless));
        if let Ok(job) = job {
            assert!(delegator.submit(job).expect("room").wait().state().is_finished());
        }
        assert_all_at_work(&delegator);
    });
}

#[test]
fn hooks_that_panic_run_all_the_same_and_cost_no_worker() {
    watchdog(|| {
        let name = own_name();
        let (starts, stops) = (Counter::new(), Counter::new());
        let delegator = Delegator::builder()
            .workers(4)
            .queue_capacity(64)
            .thread_name(name.as_str())
            .on_worker_start({
                let starts = starts.clone();
                move |index| {
                    starts.add();
                    panic_any(Bomb(index as u32));
                }
            })
            .on_worker_stop({
                let stops = stops.clone();
                move |index| {
                    stops.add();
                    panic_any(Bomb(index as u32));
                }
            })
            .build()
            .expect("a hook that panics is not a reason to refuse");
        assert_all_at_work(&delegator);
        let report = delegator.shutdown(Shutdown::drain());
        assert!(report.stuck.is_empty());
        drop(delegator);
        assert_eq!((starts.get(), stops.get()), (4, 4));
        assert_threads_gone(&name);
    });
}

#[test]
fn every_mix_of_bad_hooks_and_bad_jobs_is_counted_and_ends() {
    watchdog(|| {
        #[derive(Clone, Copy, PartialEq)]
        enum Hook {
            None,
            Good,
            Text,
            Nested,
            Again,
        }
        let hooks = [Hook::None, Hook::Good, Hook::Text, Hook::Nested, Hook::Again];
        let act = |hook: Hook| {
            move |_: usize| match hook {
                Hook::None | Hook::Good => {}
                Hook::Text => panic!("hook"),
                Hook::Nested => panic_any(Bomb(2)),
                Hook::Again => panic::resume_unwind(Box::new(0_u8)),
            }
        };
        let jobs: [fn() -> Job; 5] = [
            || yields("good", ""),
            || panics("text", "job"),
            || Job::new("nested", |_| panic_any(Bomb(2))),
            || keeps("untidy", PanicOnDrop("dropped")),
            || Job::new("fails", |_| Err("no".into())),
        ];
        for hook in hooks {
            for job in jobs {
                let mut builder = Delegator::builder().workers(2).queue_capacity(8);
                if hook != Hook::None {
                    builder = builder.on_worker_start(act(hook)).on_worker_stop(act(hook));
                }
                let delegator = builder.build().unwrap();
                let handles: Vec<_> = (0..6).map(|_| delegator.submit(job()).expect("room")).collect();
                assert!(handles.iter().all(|handle| handle.wait().state().is_finished()));
                let stats = delegator.stats();
                assert_eq!(stats.completed + stats.failed + stats.panicked, 6);
                assert_balanced(&stats);
                assert_eq!(delegator.workers().len(), 2);
                delegator.shutdown(Shutdown::drain());
                assert_eq!(covered(&delegator.shutdown(Shutdown::cancel())), 0);
            }
        }
    });
}

#[test]
fn a_callback_that_panics_stops_neither_the_cancel_nor_the_other_callbacks() {
    watchdog(|| {
        let delegator = delegator(1);
        let (started, called, release) = (Gate::new(), Counter::new(), Gate::new());
        let job = Job::new("listens", {
            let (started, called, release) = (started.clone(), called.clone(), release.clone());
            move |ctx| {
                let registered: Vec<_> = (0..4)
                    .map(|n| {
                        let called = called.clone();
                        ctx.on_done(move || {
                            called.add();
                            if n % 2 == 0 {
                                panic_any(Bomb(n));
                            }
                        })
                    })
                    .collect();
                started.open();
                release.wait();
                drop(registered);
                ctx.check()?;
                Ok(Vec::new())
            }
        });
        let handle = delegator.submit(job).expect("room");
        started.wait();
        assert!(handle.cancel());
        assert_eq!(called.get(), 4, "they run before the cancel returns");
        release.open();
        assert_eq!(handle.wait().state(), JobState::Cancelled);
        assert_all_at_work(&delegator);
    });
}

#[test]
fn a_callback_that_panics_does_not_stop_a_shutdown() {
    watchdog(|| {
        let delegator = delegator(2);
        let started = Counter::new();
        let handles = [(); 2].map(|()| {
            let started = started.clone();
            let job = Job::new("listens", move |ctx| {
                let _registered = ctx.on_done(|| panic_any(Bomb(2)));
                started.add();
                ctx.sleep(common::PATIENCE)?;
                Ok(Vec::new())
            });
            delegator.submit(job).expect("room")
        });
        started.wait_for(2);
        let report = delegator.shutdown(Shutdown::cancel());
        assert_eq!((report.cancelled, covered(&report)), (2, 2));
        assert!(handles.iter().all(|handle| handle.state() == JobState::Cancelled));
    });
}

#[test]
fn a_panic_in_a_job_that_runs_inside_another_ends_only_itself() {
    watchdog(|| {
        let delegator = sized(1, 4);
        let submitter = delegator.submitter();
        let outer = Job::new("outer", move |_| {
            let inner = submitter.submit(Job::new("inner", |_| panic_any(Bomb(2))))?;
            let untidy = submitter.submit(keeps("untidy", BombOnDrop(2)))?;
            assert_eq!(inner.wait().state(), JobState::Panicked);
            assert_eq!(untidy.wait().state(), JobState::Completed);
            Ok(b"still here".to_vec())
        });
        assert_eq!(delegator.submit(outer).expect("room").join().unwrap(), b"still here");
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn a_panic_leaves_nothing_of_its_job_behind() {
    watchdog(|| {
        let delegator = delegator(1);
        let (flag, dropped) = DropFlag::new();
        let (in_flight, let_go) = DropFlag::new();
        let in_flight = Mutex::new(Some(in_flight));
        let job = Job::new("owner", move |_| {
            let _owned = &flag;
            // A payload with an owner of its own: once nobody can ask for it, it goes.
            panic_any(in_flight.lock().unwrap().take())
        });
        let handle = delegator.submit(job).expect("room");
        assert_eq!(handle.wait().state(), JobState::Panicked);
        assert!(dropped.is_open());
        delegator.registry().clear();
        drop(handle);
        let_go.wait();
    });
}

#[test]
fn a_waiter_hears_of_a_panic_at_once() {
    watchdog(|| {
        let delegator = delegator(1);
        let (started, release) = (Gate::new(), Gate::new());
        let job = Job::new("doomed", {
            let (started, release) = (started.clone(), release.clone());
            move |_| {
                started.open();
                release.wait();
                panic!("now");
            }
        });
        let handle = delegator.submit(job).expect("room");
        started.wait();
        let waiters = [(); 3].map(|()| {
            let handle = handle.clone();
            thread::spawn(move || handle.wait().state())
        });
        pause();
        release.open();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), JobState::Panicked);
        }
    });
}
