//! Functions that run when a context ends: once, where and when the documentation says, or never.

mod common;

use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use common::{
    BRIEF, CapturedLog, Counter, DropFlag, FOREVER, Gate, PanicOnDrop, delegator, fired, occupy, wait_fired,
    watchdog, yields,
};
use workpath::{Context, OnDone};

/// A function to register, and where to read on which thread it ran.
fn recorder() -> (impl FnOnce() + Send + 'static, Arc<Mutex<Vec<ThreadId>>>) {
    let ran_on = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&ran_on);
    (move || record.lock().expect("no panic").push(thread::current().id()), ran_on)
}

fn runs(ran_on: &Mutex<Vec<ThreadId>>) -> Vec<ThreadId> {
    ran_on.lock().expect("no panic").clone()
}

#[test]
fn the_function_runs_once_on_the_thread_that_cancels_before_cancel_returns() {
    let (ctx, cancel) = Context::background().with_cancel();
    let (record, ran_on) = recorder();
    let on_done = ctx.on_done(record);
    assert!(runs(&ran_on).is_empty(), "not before the context is done");
    let canceller = thread::spawn(move || {
        cancel.cancel();
        let seen = runs(&ran_on);
        cancel.cancel();
        assert_eq!(runs(&ran_on).len(), 1, "once");
        (thread::current().id(), seen)
    });
    let (thread, seen) = canceller.join().expect("cancel comes back");
    assert_eq!(seen, [thread]);
    assert!(!on_done.stop(), "too late to prevent it");
}

#[test]
fn a_function_on_a_descendant_runs_on_the_thread_that_cancels_the_ancestor() {
    let (root, cancel) = Context::background().with_cancel();
    let leaf = root.with_cancel().0.with_value("key", 1_u8).with_timeout(FOREVER);
    let (record, ran_on) = recorder();
    let _on_done = leaf.on_done(record);
    drop(root);
    cancel.cancel();
    assert_eq!(runs(&ran_on), [thread::current().id()]);
}

#[test]
fn the_function_runs_though_every_handle_of_its_context_is_gone() {
    let (root, cancel) = Context::background().with_cancel();
    let (record, ran_on) = recorder();
    let on_done = root.with_cancel().0.with_value("key", 1_u8).on_done(record);
    drop(on_done);
    drop(root);
    assert!(runs(&ran_on).is_empty(), "a drop is not the end of the context");
    cancel.cancel();
    assert_eq!(runs(&ran_on), [thread::current().id()]);
}

#[test]
fn dropping_the_registration_does_not_prevent_the_run() {
    let (ctx, cancel) = Context::background().with_cancel();
    let (record, ran_on) = recorder();
    drop(ctx.on_done(record));
    assert!(runs(&ran_on).is_empty());
    cancel.cancel();
    assert_eq!(runs(&ran_on).len(), 1);
}

#[test]
fn the_function_runs_after_every_descendant_is_done() {
    let (root, cancel) = Context::background().with_cancel();
    let left = root.with_cancel().0.with_value("side", "left");
    let right = root.with_cancel().0.with_value("side", "right");
    let all = [root.clone(), left.clone(), right.clone(), left.with_timeout(FOREVER)];
    let seen = Counter::new();
    let registered: Vec<_> = all
        .iter()
        .map(|ctx| {
            let everyone: Vec<_> = all.iter().map(|ctx| (ctx.clone(), ctx.done())).collect();
            let seen = seen.clone();
            ctx.on_done(move || {
                assert!(everyone.iter().all(|(ctx, done)| ctx.is_done() && fired(done)));
                seen.add();
            })
        })
        .collect();
    cancel.cancel();
    assert_eq!(seen.get(), all.len(), "each ran, and each saw all of the tree done");
    assert!(registered.into_iter().all(|on_done| !on_done.stop()));
}

#[test]
fn receivers_that_were_made_after_the_registration_have_fired_when_the_function_runs() {
    let (root, cancel) = Context::background().with_cancel();
    let child = root.with_cancel().0;
    let receivers = Arc::new(Mutex::new(Vec::new()));
    let (seen, late) = (Counter::new(), [root.clone(), child.clone()]);
    let (shared, counted) = (Arc::clone(&receivers), seen.clone());
    let _on_done = root.on_done(move || {
        assert!(shared.lock().expect("no panic").iter().all(fired));
        assert!(late.iter().all(|ctx| ctx.is_done() && fired(&ctx.done())));
        counted.add();
    });
    receivers.lock().expect("no panic").extend([
        root.done(),
        child.done(),
        child.with_timeout(FOREVER).done(),
    ]);
    cancel.cancel();
    assert_eq!(seen.get(), 1);
}

#[test]
fn a_function_may_wait_for_threads_that_listen_to_the_same_context() {
    watchdog(|| {
        let (ctx, cancel) = Context::background().with_cancel();
        let gone = Counter::new();
        let (counted, ran) = (gone.clone(), Gate::new());
        let opened = ran.clone();
        let _on_done = ctx.on_done(move || {
            counted.wait_for(3);
            opened.open();
        });
        let blocks: [fn(&Context); 3] = [
            |ctx| wait_fired(&ctx.done()),
            |ctx| assert!(ctx.sleep(FOREVER).is_err()),
            |ctx| assert!(ctx.recv(&crossbeam_channel::never::<()>()).is_err()),
        ];
        let start = Arc::new(Barrier::new(4));
        let threads = blocks.map(|block| {
            let (ctx, gone, start) = (ctx.with_value("key", 1_u8), gone.clone(), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                block(&ctx);
                gone.add();
            })
        });
        start.wait();
        thread::sleep(BRIEF);
        cancel.cancel();
        assert!(ran.is_open());
        for thread in threads {
            thread.join().expect("woke");
        }
    });
}

#[test]
fn a_function_may_wait_for_a_thread_that_listens_to_a_queued_job_of_the_same_context() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let (ctx, cancel) = Context::background().with_cancel();
        let (heard, ran) = (Gate::new(), Gate::new());
        let (waited, opened) = (heard.clone(), ran.clone());
        let _on_done = ctx.on_done(move || {
            waited.wait();
            opened.open();
        });
        let handle = delegator.submit(yields("queued", *b"x").with_context(&ctx)).expect("accepted");
        let done = handle.done();
        let listener = thread::spawn(move || {
            wait_fired(&done);
            heard.open();
        });
        cancel.cancel();
        assert!(ran.is_open());
        listener.join().expect("heard");
        assert!(handle.is_finished() && !busy.handle.is_finished());
    });
}

#[test]
fn a_function_registered_on_a_done_context_runs_at_once_on_the_calling_thread() {
    let (cancelled, cancel) = Context::background().with_cancel();
    cancel.cancel();
    let below = cancelled.with_value("key", 1_u8);
    for ctx in [cancelled, below, Context::background().with_timeout(Duration::ZERO)] {
        let (record, ran_on) = recorder();
        let on_done = ctx.on_done(record);
        assert_eq!(runs(&ran_on), [thread::current().id()]);
        assert!(!on_done.stop());
        cancel.cancel();
        assert_eq!(runs(&ran_on).len(), 1);
    }
}

#[test]
fn the_function_runs_at_a_deadline_that_nobody_polls_and_not_before() {
    watchdog(|| {
        let ctx = Context::background().with_timeout(BRIEF);
        let deadline = ctx.deadline().expect("a deadline");
        let (send, receive) = crossbeam_channel::unbounded();
        let registered =
            [ctx.clone(), ctx.with_cancel().0, ctx.with_timeout(FOREVER).with_value("key", 1_u8)].map(
                |ctx| {
                    let send = send.clone();
                    let seen = ctx.clone();
                    ctx.on_done(move || send.send((Instant::now(), seen.is_done())).expect("the test waits"))
                },
            );
        for _ in &registered {
            let (when, done) = receive.recv().expect("the function runs");
            assert!(when >= deadline);
            assert!(done);
        }
        assert!(registered.into_iter().all(|on_done| !on_done.stop()));
    });
}

#[test]
fn at_a_deadline_the_function_is_not_run_by_the_thread_that_registered_it() {
    watchdog(|| {
        let deadline = Instant::now() + BRIEF;
        let ctx = Context::background().with_deadline(deadline);
        let (send, receive) = crossbeam_channel::bounded(1);
        let registered_in_time = {
            let _detached = ctx.on_done(move || {
                send.send(thread::current().id()).expect("the test waits");
            });
            Instant::now() < deadline
        };
        let ran_on = receive.recv().expect("the function runs");
        if registered_in_time {
            assert_ne!(ran_on, thread::current().id());
        }
    });
}

#[test]
fn a_stopped_function_never_runs_and_is_dropped_at_once() {
    let (ctx, cancel) = Context::background().with_cancel();
    let (flag, dropped) = DropFlag::new();
    let (record, ran_on) = recorder();
    let on_done = ctx.on_done(move || {
        drop(flag);
        record();
    });
    assert!(!dropped.is_open());
    assert!(on_done.stop());
    assert!(dropped.is_open());
    cancel.cancel();
    assert!(runs(&ran_on).is_empty());
}

#[test]
fn a_function_stopped_before_its_deadline_never_runs() {
    let ctx = Context::background().with_timeout(BRIEF);
    let (record, ran_on) = recorder();
    let on_done = ctx.with_value("key", 1_u8).on_done(record);
    let stopped = on_done.stop();
    wait_fired(&ctx.done());
    // A machine that stood still for so long that the deadline came first has its run instead.
    assert_eq!(runs(&ran_on).len(), usize::from(!stopped));
    wait_fired(&Context::background().with_timeout(BRIEF).done());
    assert_eq!(runs(&ran_on).len(), usize::from(!stopped));
}

#[test]
fn stopping_one_function_leaves_the_others() {
    let (ctx, cancel) = Context::background().with_cancel();
    let ran = Counter::new();
    let mut registered: Vec<OnDone> = (0..5)
        .map(|_| {
            let ran = ran.clone();
            ctx.on_done(move || {
                ran.add();
            })
        })
        .collect();
    assert!(registered.remove(3).stop());
    assert!(registered.remove(0).stop());
    cancel.cancel();
    assert_eq!(ran.get(), 3);
}

#[test]
fn what_a_function_captured_is_freed_when_it_has_run() {
    let (ctx, cancel) = Context::background().with_cancel();
    let (flag, dropped) = DropFlag::new();
    let on_done = ctx.on_done(move || {
        let _moved = &flag;
    });
    cancel.cancel();
    assert!(dropped.is_open());
    assert!(!on_done.stop());
}

#[test]
fn functions_of_a_context_that_nobody_can_end_any_more_are_dropped_with_it() {
    let (ctx, canceller) = Context::background().with_cancel();
    let (flag, dropped) = DropFlag::new();
    let (record, ran_on) = recorder();
    let on_done = ctx.on_done(move || {
        drop(flag);
        record();
    });
    drop((ctx, canceller, on_done));
    assert!(dropped.is_open(), "a leak");
    assert!(runs(&ran_on).is_empty());
}

#[test]
fn a_function_below_without_cancel_does_not_run_when_the_tree_above_ends() {
    let (root, cancel) = Context::background().with_cancel();
    let (record, ran_on) = recorder();
    let on_done = root.without_cancel().on_done(record);
    cancel.cancel();
    assert!(runs(&ran_on).is_empty());
    assert!(on_done.stop());
}

#[test]
fn a_panic_in_one_function_is_logged_and_stops_neither_the_others_nor_the_cancel() {
    let log = CapturedLog::install();
    let (ctx, cancel) = Context::background().with_cancel();
    let ran = Counter::new();
    let registered: Vec<OnDone> = (0..6)
        .map(|n| {
            let ran = ran.clone();
            ctx.on_done(move || {
                ran.add();
                assert!(n % 2 == 0, "callback bomb in the cancel");
            })
        })
        .collect();
    let done = ctx.done();
    cancel.cancel();
    assert_eq!(ran.get(), 6);
    assert!(fired(&done));
    assert!(registered.into_iter().all(|on_done| !on_done.stop()));
    let lines = log.containing("callback bomb in the cancel");
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line.level == log::Level::Error && line.target == "workpath"));
}

#[test]
fn a_panic_in_a_function_that_runs_at_once_does_not_reach_the_caller() {
    let log = CapturedLog::install();
    let ctx = Context::background().with_timeout(Duration::ZERO);
    let on_done = ctx.on_done(|| panic!("callback bomb on a done context"));
    assert!(!on_done.stop());
    assert_eq!(log.containing("callback bomb on a done context").len(), 1);
}

#[test]
fn a_panic_at_a_deadline_does_not_stop_later_deadlines() {
    CapturedLog::install();
    let ctx = Context::background().with_timeout(BRIEF);
    let started = Gate::new();
    let opened = started.clone();
    let _on_done = ctx.on_done(move || {
        opened.open();
        panic!("callback bomb on the timer thread");
    });
    started.wait();
    wait_fired(&Context::background().with_timeout(BRIEF).done());
    common::eventually("the panic is in the log", || {
        CapturedLog::install().containing("callback bomb on the timer thread").len() == 1
    });
}

#[test]
fn payloads_and_captures_that_panic_in_their_drop_do_not_reach_the_canceller() {
    let (ctx, cancel) = Context::background().with_cancel();
    let ran = Counter::new();
    let counted = |ran: &Counter| {
        let ran = ran.clone();
        move || {
            ran.add();
        }
    };
    let _first = ctx.on_done(counted(&ran));
    let _bombs = [
        ctx.on_done(|| std::panic::panic_any(PanicOnDrop("the payload of a callback"))),
        ctx.on_done({
            let capture = PanicOnDrop("a capture of a callback");
            move || drop(capture)
        }),
    ];
    let _last = ctx.on_done(counted(&ran));
    cancel.cancel();
    assert_eq!(ran.get(), 2);
    assert!(ctx.is_done());
    let _late = ctx.on_done(|| std::panic::panic_any(PanicOnDrop("the payload of a late callback")));
}

#[test]
fn a_stop_that_drops_a_capture_that_uses_the_context_does_not_deadlock() {
    struct Meddler(Context);
    impl Drop for Meddler {
        fn drop(&mut self) {
            let on_done = self.0.on_done(|| ());
            assert!(on_done.stop());
            assert!(!fired(&self.0.done()));
        }
    }
    watchdog(|| {
        let (ctx, cancel) = Context::background().with_cancel();
        let meddler = Meddler(ctx.clone());
        let on_done = ctx.on_done(move || drop(meddler));
        assert!(on_done.stop());
        cancel.cancel();
    });
}

#[test]
fn a_function_may_use_its_tree_in_every_way() {
    watchdog(|| {
        let (root, cancel) = Context::background().with_cancel();
        let (other, cancel_other) = root.without_cancel().with_cancel();
        let ran = Counter::new();
        let nested = ran.clone();
        let within = root.clone();
        let again = cancel.clone();
        let _on_done = root.on_done(move || {
            again.cancel();
            assert!(within.is_done());
            assert!(fired(&within.done()));
            let (child, cancel_child) = within.with_value("key", 1_u8).with_cancel();
            cancel_child.cancel();
            assert!(child.check().is_err());
            let counted = nested.clone();
            let _late = child.on_done(move || {
                counted.add();
            });
            cancel_other.cancel();
            assert!(other.is_done());
            assert!(other.sleep(FOREVER).is_err());
            let timed = Context::background().with_timeout(Duration::from_millis(1));
            wait_fired(&timed.done());
            nested.add();
        });
        cancel.cancel();
        assert_eq!(ran.get(), 2);
    });
}

#[test]
fn a_function_may_submit_and_wait_for_a_job() {
    watchdog(|| {
        let delegator = Arc::new(delegator(1));
        let (ctx, cancel) = Context::background().with_cancel();
        let answers = Counter::new();
        let (pool, counted) = (Arc::clone(&delegator), answers.clone());
        let _on_done = ctx.on_done(move || {
            let handle = pool.submit(yields("from a callback", *b"yes")).expect("accepted");
            assert_eq!(handle.join().expect("an answer"), b"yes");
            counted.add();
        });
        cancel.cancel();
        assert_eq!(answers.get(), 1);
    });
}

#[test]
fn a_function_may_stop_another_that_then_never_runs() {
    let (ctx, cancel) = Context::background().with_cancel();
    let shared: Arc<Mutex<Vec<OnDone>>> = Arc::new(Mutex::new(Vec::new()));
    let (prevented, ran) = (Counter::new(), Counter::new());
    // Two functions, each of which stops the other: whichever is first wins, and exactly one runs.
    for _ in 0..2 {
        let (shared_with, prevented, ran) = (Arc::clone(&shared), prevented.clone(), ran.clone());
        let on_done = ctx.on_done(move || {
            ran.add();
            let all = std::mem::take(&mut *shared_with.lock().expect("no panic"));
            for other in all {
                if other.stop() {
                    prevented.add();
                }
            }
        });
        shared.lock().expect("no panic").push(on_done);
    }
    cancel.cancel();
    assert_eq!(ran.get() + prevented.get(), 2);
    assert!(ran.get() >= 1);
}

#[test]
fn a_stop_that_races_a_cancel_tells_the_truth() {
    watchdog(|| {
        for _ in 0..300 {
            let (ctx, cancel) = Context::background().with_cancel();
            let ran = Counter::new();
            let counted = ran.clone();
            let on_done = ctx.with_value("key", 1_u8).on_done(move || {
                counted.add();
            });
            let start = Arc::new(Barrier::new(2));
            let canceller = {
                let start = Arc::clone(&start);
                thread::spawn(move || {
                    start.wait();
                    cancel.cancel();
                })
            };
            start.wait();
            let prevented = on_done.stop();
            canceller.join().expect("cancel comes back");
            assert_eq!(ran.get(), usize::from(!prevented));
        }
    });
}

#[test]
fn a_registration_that_races_a_cancel_always_runs_exactly_once() {
    watchdog(|| {
        for _ in 0..300 {
            let (root, cancel) = Context::background().with_cancel();
            let leaf = root.with_cancel().0;
            let start = Arc::new(Barrier::new(2));
            let canceller = {
                let start = Arc::clone(&start);
                thread::spawn(move || {
                    start.wait();
                    cancel.cancel();
                })
            };
            let ran = Counter::new();
            let counted = ran.clone();
            start.wait();
            let _on_done = leaf.on_done(move || {
                counted.add();
            });
            canceller.join().expect("cancel comes back");
            assert_eq!(ran.get(), 1);
        }
    });
}

#[test]
fn a_cancel_a_second_cancel_and_a_deadline_at_once_run_the_function_once() {
    watchdog(|| {
        for _ in 0..30 {
            let (root, cancel) = Context::background().with_cancel();
            let deadline = Instant::now() + Duration::from_millis(2);
            let (child, cancel_child) = root.with_deadline(deadline).with_cancel();
            let ran = Counter::new();
            let counted = ran.clone();
            let on_done = child.on_done(move || {
                counted.add();
            });
            let threads = [cancel, cancel_child].map(|cancel| {
                thread::spawn(move || {
                    while Instant::now() < deadline {
                        std::hint::spin_loop();
                    }
                    cancel.cancel();
                })
            });
            for thread in threads {
                thread.join().expect("cancel comes back");
            }
            ran.wait_for(1);
            assert!(!on_done.stop());
            wait_fired(&Context::background().with_timeout(Duration::from_millis(2)).done());
            assert_eq!(ran.get(), 1);
        }
    });
}

#[test]
fn the_function_of_a_child_that_ended_on_its_own_does_not_run_again_with_the_parent() {
    let (parent, cancel_parent) = Context::background().with_cancel();
    let (child, cancel_child) = parent.with_cancel();
    let ran = Counter::new();
    let counted = ran.clone();
    let _on_done = child.on_done(move || {
        counted.add();
    });
    cancel_child.cancel();
    assert_eq!(ran.get(), 1);
    cancel_parent.cancel();
    assert_eq!(ran.get(), 1);
}
