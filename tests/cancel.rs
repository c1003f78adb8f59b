//! Cancelling one job: while it waits, while it runs, and when it is too late.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    BRIEF, Counter, DropFlag, FOREVER, Gate, delegator, fired, occupy, wait_fired, watchdog, yields,
};
use pool::{assert_balanced, fill, keeps, obedient, pause, sized};
use workpath::{Context, Error, ErrorKind, Job, JobHandle, JobState};

#[test]
fn a_queued_job_that_is_cancelled_never_runs() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let ran = Counter::new();
        let job = Job::new("cancelled", {
            let ran = ran.clone();
            move |_| {
                ran.add();
                Ok(Vec::new())
            }
        });
        let handle = delegator.submit(job).expect("room");
        let after = fill(&delegator, 1).remove(0);
        assert!(handle.cancel());
        assert_eq!((handle.state(), handle.is_finished()), (JobState::Cancelled, true));
        assert!(fired(&handle.done()));
        let record = handle.try_wait().expect("it has ended");
        assert_eq!((record.started_at(), record.worker(), record.payload()), (None, None, None));
        assert_eq!(record.run_time(), Duration::ZERO);
        let error = record.error().expect("why");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(error.is_cancelled() && error.get_ref().is_none());
        assert!(delegator.registry().get(handle.id()).is_some());
        busy.release();
        assert_eq!(after.wait().state(), JobState::Completed);
        assert_eq!(ran.get(), 0);
        assert_eq!(handle.wait().state(), JobState::Cancelled);
        delegator.wait_idle();
        assert_eq!((delegator.stats().completed, delegator.stats().cancelled), (2, 1));
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn cancelling_a_queued_job_drops_what_it_owns_before_it_returns() {
    watchdog(|| {
        let delegator = sized(1, 8);
        // The worker is busy to the end: nobody else could have dropped it.
        let _busy = occupy(&delegator);
        let (flag, dropped) = DropFlag::new();
        let handle = delegator.submit(keeps("owner", flag)).expect("room");
        assert!(!dropped.is_open());
        assert!(handle.cancel());
        assert!(dropped.is_open());
    });
}

#[test]
fn the_cause_of_a_cancel_is_kept() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let queued = fill(&delegator, 1).remove(0);
        assert!(queued.cancel_with("changed my mind"));
        assert_eq!(cause(&queued).as_deref(), Some("changed my mind"));
        busy.release();
        let started = Gate::new();
        let running = delegator.submit(obedient("obedient", &started)).expect("room");
        started.wait();
        assert!(running.cancel_with("changed my mind again"));
        assert_eq!(running.wait().state(), JobState::Cancelled);
        assert_eq!(cause(&running).as_deref(), Some("changed my mind again"));
    });
}

/// The text of the cause in the record of a finished job.
#[track_caller]
fn cause(handle: &JobHandle) -> Option<String> {
    let record = handle.wait();
    record.error().expect("an error").get_ref().map(ToString::to_string)
}

#[test]
fn only_the_first_cancel_of_a_queued_job_says_yes() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let _busy = occupy(&delegator);
        let handle = fill(&delegator, 1).remove(0);
        assert!(handle.cancel_with("first"));
        assert!(!handle.cancel_with("second"));
        assert!(!handle.clone().cancel());
        assert_eq!(cause(&handle).as_deref(), Some("first"));
        assert_eq!(delegator.stats().cancelled, 1);
    });
}

#[test]
fn of_many_threads_that_cancel_one_queued_job_exactly_one_succeeds() {
    watchdog(|| {
        let delegator = sized(1, 64);
        let _busy = occupy(&delegator);
        for handle in fill(&delegator, 50) {
            let wins: usize = thread::scope(|scope| {
                let cancels: Vec<_> = (0..4).map(|_| scope.spawn(|| usize::from(handle.cancel()))).collect();
                cancels.into_iter().map(|cancel| cancel.join().unwrap()).sum()
            });
            assert_eq!(wins, 1);
            assert_eq!(handle.wait().state(), JobState::Cancelled);
        }
        assert_eq!((delegator.stats().queued, delegator.stats().cancelled), (0, 50));
    });
}

#[test]
fn a_running_job_is_told_and_decides_for_itself() {
    watchdog(|| {
        let delegator = delegator(1);
        type End = fn(&Context) -> Result<Vec<u8>, Error>;
        let ends: [(End, JobState); 4] = [
            (|ctx| ctx.check().map(|()| Vec::new()), JobState::Cancelled),
            (|_| Ok(b"done all the same".to_vec()), JobState::Completed),
            (|_| Err("something else".into()), JobState::Failed),
            (|_| panic!("something worse"), JobState::Panicked),
        ];
        for (end, state) in ends {
            let (started, release) = (Gate::new(), Gate::new());
            let job = Job::new("running", {
                let (started, release) = (started.clone(), release.clone());
                move |ctx| {
                    started.open();
                    release.wait();
                    assert!(ctx.is_done());
                    assert!(ctx.error().is_some_and(|error| error.is_cancelled()));
                    end(ctx)
                }
            });
            let handle = delegator.submit(job).expect("room");
            started.wait();
            assert!(handle.cancel());
            assert!(!handle.is_finished(), "the operation has the last word");
            assert!(handle.cancel_with("a second time"), "it still runs");
            release.open();
            assert_eq!(handle.wait().state(), state);
            assert!(!handle.cancel());
        }
    });
}

#[test]
fn a_cancel_wakes_a_running_job_that_sleeps_or_waits_for_a_message() {
    watchdog(|| {
        let delegator = delegator(2);
        let started = Gate::new();
        let sleeper = delegator.submit(obedient("sleeper", &started)).expect("room");
        let (_sender, messages) = crossbeam_channel::unbounded::<u8>();
        let listening = Gate::new();
        let listener = Job::new("listener", {
            let listening = listening.clone();
            move |ctx| {
                listening.open();
                ctx.recv(&messages).map(|byte| vec![byte])
            }
        });
        let listener = delegator.submit(listener).expect("room");
        started.wait();
        listening.wait();
        pause();
        for handle in [sleeper, listener] {
            assert!(!handle.is_finished());
            assert!(handle.cancel());
            assert_eq!(handle.wait().state(), JobState::Cancelled);
        }
    });
}

#[test]
fn a_finished_job_cannot_be_cancelled() {
    watchdog(|| {
        let delegator = delegator(1);
        let handle = delegator.submit(yields("over", "bytes")).expect("room");
        handle.wait();
        assert!(!handle.cancel());
        assert!(!handle.cancel_with("too late"));
        let record = handle.wait();
        assert_eq!((record.state(), record.payload()), (JobState::Completed, Some(&b"bytes"[..])));
        assert!(record.error().is_none());
        assert_eq!(delegator.stats().cancelled, 0);
    });
}

#[test]
fn a_cancel_answers_as_the_state_demands() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let started = Gate::new();
        let running = delegator.submit(obedient("running", &started)).expect("room");
        let queued = fill(&delegator, 2);
        started.wait();
        assert!(queued[1].cancel(), "queued");
        assert!(!queued[1].cancel(), "cancelled");
        assert!(running.cancel(), "running");
        running.wait();
        assert!(!running.cancel(), "ended");
        queued[0].wait();
        assert!(!queued[0].cancel(), "completed");
    });
}

#[test]
fn everyone_who_waits_for_a_cancelled_job_wakes_up() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let _busy = occupy(&delegator);
        let handle = fill(&delegator, 1).remove(0);
        let waits: [fn(JobHandle) -> JobState; 4] = [
            |handle| handle.wait().state(),
            |handle| handle.wait_timeout(FOREVER).expect("in time").state(),
            |handle| handle.wait_deadline(Instant::now() + FOREVER).expect("in time").state(),
            |handle| {
                wait_fired(&handle.done());
                handle.state()
            },
        ];
        let waiters = waits.map(|wait| {
            let handle = handle.clone();
            thread::spawn(move || wait(handle))
        });
        let joiner = thread::spawn({
            let handle = handle.clone();
            move || handle.join().expect_err("cancelled").is_cancelled()
        });
        pause();
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        assert!(handle.cancel());
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), JobState::Cancelled);
        }
        assert!(joiner.join().unwrap());
    });
}

#[test]
fn everyone_who_waits_for_a_queued_job_hears_its_context_end() {
    // One way of waiting at a time: otherwise one that hears of it might wake the others.
    let waits: [fn(JobHandle) -> JobState; 4] = [
        |handle| handle.wait().state(),
        |handle| handle.wait_timeout(FOREVER).expect("in time").state(),
        |handle| if handle.clone().join().is_err() { handle.state() } else { JobState::Completed },
        |handle| {
            wait_fired(&handle.done());
            handle.state()
        },
    ];
    watchdog(move || {
        let delegator = sized(1, 8);
        let _busy = occupy(&delegator);
        for wait in waits {
            for cancel in [true, false] {
                let (ctx, canceller) = Context::background().with_cancel();
                let ctx = if cancel { ctx } else { ctx.with_timeout(Duration::from_millis(60)) };
                let handle = delegator.submit(yields("waiting", "").with_context(&ctx)).expect("room");
                let waiter = thread::spawn({
                    let handle = handle.clone();
                    move || wait(handle)
                });
                if cancel {
                    pause();
                    assert!(!waiter.is_finished());
                    canceller.cancel_with("from above");
                }
                let state = if cancel { JobState::Cancelled } else { JobState::TimedOut };
                assert_eq!(waiter.join().unwrap(), state);
                assert_eq!(handle.wait().started_at(), None);
                assert_eq!(cause(&handle).as_deref(), cancel.then_some("from above"));
            }
        }
    });
}

#[test]
fn cancelling_a_job_leaves_its_context_and_its_siblings_alone() {
    watchdog(|| {
        let delegator = sized(2, 8);
        let (ctx, canceller) = Context::background().with_cancel();
        let gates = [Gate::new(), Gate::new()];
        let running = gates.each_ref().map(|started| {
            let job = obedient("sibling", started).with_context(&ctx);
            delegator.submit(job).expect("room")
        });
        gates.iter().for_each(Gate::wait);
        let queued =
            [(); 2].map(|()| delegator.submit(yields("sibling", "").with_context(&ctx)).expect("room"));
        assert!(queued[0].cancel());
        assert!(running[0].cancel());
        assert_eq!(running[0].wait().state(), JobState::Cancelled);
        assert!(!ctx.is_done());
        assert!(!running[1].is_finished());
        assert_eq!(queued[1].wait().state(), JobState::Completed);
        canceller.cancel();
        assert_eq!(running[1].wait().state(), JobState::Cancelled);
    });
}

#[test]
fn what_came_first_decides_though_nobody_looked() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let _busy = occupy(&delegator);

        // The deadline first, then the cancel of the job.
        let deadline = Instant::now() + BRIEF;
        let late = delegator.submit(yields("late", "").with_deadline(deadline)).expect("room");
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
        late.cancel_with("too late to matter");
        assert_eq!(late.wait().state(), JobState::TimedOut);

        // The cancel of the context first, then the deadline, then the cancel of the job.
        let (ctx, canceller) = Context::background().with_cancel();
        let deadline = Instant::now() + Duration::from_secs(1);
        let job = yields("stopped", "").with_context(&ctx).with_deadline(deadline);
        let stopped = delegator.submit(job).expect("room");
        canceller.cancel_with("first");
        let in_time = Instant::now() < deadline;
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
        stopped.cancel_with("last");
        if in_time {
            assert_eq!(stopped.wait().state(), JobState::Cancelled);
            assert_eq!(cause(&stopped).as_deref(), Some("first"));
        }
    });
}

#[test]
fn the_first_failure_can_stop_all_that_still_wait() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let (ctx, canceller) = Context::background().with_cancel();
        let ran = Counter::new();
        let handles: Vec<_> = (0..5)
            .map(|n| {
                let (ran, canceller) = (ran.clone(), canceller.clone());
                let job = Job::new("member", move |ctx| {
                    ran.add();
                    if n == 1 {
                        canceller.cancel_with("member 1 gave up");
                        ctx.check()?;
                    }
                    Ok(Vec::new())
                });
                delegator.submit(job.with_context(&ctx)).expect("room")
            })
            .collect();
        busy.release();
        let states: Vec<_> = handles.iter().map(|handle| handle.wait().state()).collect();
        use JobState::{Cancelled, Completed};
        assert_eq!(states, [Completed, Cancelled, Cancelled, Cancelled, Cancelled]);
        assert_eq!(ran.get(), 2);
        assert!(handles[1..].iter().all(|handle| cause(handle).as_deref() == Some("member 1 gave up")));
        delegator.wait_idle();
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn a_job_can_cancel_itself() {
    watchdog(|| {
        let delegator = delegator(1);
        let (sender, own_handle) = crossbeam_channel::bounded::<JobHandle>(1);
        let job = Job::new("self-critical", move |ctx| {
            let own = own_handle.recv().map_err(Error::new)?;
            ctx.check()?;
            assert!(own.cancel());
            ctx.check()?;
            Ok(Vec::new())
        });
        let handle = delegator.submit(job).expect("room");
        sender.send(handle.clone()).unwrap();
        assert_eq!(handle.wait().state(), JobState::Cancelled);
    });
}

#[test]
fn a_cancel_that_races_the_start_leaves_exactly_one_outcome() {
    watchdog(|| {
        const WAITS: u8 = 0;
        const RAN: u8 = 1;
        let delegator = sized(2, 64);
        for round in 0..1_500 {
            let fate = Arc::new(AtomicU8::new(WAITS));
            let (flag, dropped) = DropFlag::new();
            let job = Job::new("contested", {
                let fate = Arc::clone(&fate);
                move |ctx| {
                    let _owned = &flag;
                    assert_eq!(fate.swap(RAN, Ordering::SeqCst), WAITS, "ran twice");
                    ctx.check()?;
                    Ok(Vec::new())
                }
            });
            let handle = delegator.submit(job).expect("room");
            for _ in 0..round % 60 {
                std::hint::spin_loop();
            }
            let cancelled = handle.cancel();
            let record = handle.wait();
            assert!(dropped.is_open());
            let ran = fate.load(Ordering::SeqCst) == RAN;
            assert_eq!(ran, record.started_at().is_some());
            match record.state() {
                JobState::Completed => assert!(ran),
                JobState::Cancelled => assert!(cancelled),
                other => panic!("{other}"),
            }
        }
        delegator.wait_idle();
        let stats = delegator.stats();
        assert_balanced(&stats);
        assert_eq!(stats.completed + stats.cancelled, 1_500);
    });
}

#[test]
fn cancelling_queued_jobs_lowers_the_count_of_queued_jobs() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let queued = fill(&delegator, 4);
        assert_eq!(delegator.stats().queued, 4);
        assert!(queued[0].cancel() && queued[2].cancel());
        assert_eq!((delegator.stats().queued, delegator.stats().cancelled), (2, 2));
        assert!(!queued[0].cancel());
        assert_eq!((delegator.stats().queued, delegator.stats().cancelled), (2, 2));
        assert_balanced(&delegator.stats());
        busy.release();
        delegator.wait_idle();
        assert_eq!((delegator.stats().queued, delegator.stats().completed), (0, 3));
    });
}

#[test]
fn a_cancelled_job_in_the_queue_does_not_stop_the_shutdown() {
    watchdog(|| {
        for _ in 0..50 {
            let delegator = sized(1, 8);
            let busy = occupy(&delegator);
            let queued = fill(&delegator, 3);
            for handle in &queued {
                assert!(handle.cancel());
            }
            busy.release();
            drop(delegator);
            assert_eq!(busy.handle.state(), JobState::Completed);
        }
    });
}
