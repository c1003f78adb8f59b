//! Deadlines of jobs: kept in the queue without anybody's help, told to the operation while it runs.

mod common;

use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use common::{
    BRIEF, Counter, DropFlag, FOREVER, Gate, PATIENCE, delegator, fired, occupy, wait_fired, watchdog, yields,
};
use workpath::{
    Context, Delegator, Error, ErrorKind, Job, JobHandle, JobRecord, JobState, Retention, Shutdown, Stats,
};

/// A job that counts its runs.
fn counted(ran: &Counter) -> Job {
    let ran = ran.clone();
    Job::new("counted", move |_| {
        ran.add();
        Ok(Vec::new())
    })
}

/// A job that answers whether it sees a deadline and how far away it is.
fn asks_for_deadline(answer: &Arc<Mutex<Option<Option<Instant>>>>) -> Job {
    let answer = Arc::clone(answer);
    Job::new("asks", move |ctx| {
        *answer.lock().expect("no panic") = Some(ctx.deadline());
        Ok(Vec::new())
    })
}

/// Submits a job made by `limit` from one that asks for its deadline, and returns what it saw.
fn deadline_seen(delegator: &Delegator, limit: impl FnOnce(Job) -> Job) -> Option<Instant> {
    let answer = Arc::new(Mutex::new(None));
    let record = delegator.submit(limit(asks_for_deadline(&answer))).expect("accepted").wait();
    assert_eq!(record.state(), JobState::Completed);
    answer.lock().expect("no panic").expect("the job ran")
}

fn assert_never_started(record: &JobRecord) {
    assert_eq!(record.state(), JobState::TimedOut);
    assert_eq!(record.error().map(Error::kind), Some(ErrorKind::DeadlineExceeded));
    assert!(record.result().is_err_and(Error::is_timeout));
    assert_eq!((record.started_at(), record.worker(), record.payload()), (None, None, None));
    assert_eq!(record.run_time(), Duration::ZERO);
    assert_eq!(record.overrun(), None, "an operation that never ran overran nothing");
}

#[test]
fn a_waiter_returns_at_the_deadline_of_a_queued_job_though_every_worker_is_busy() {
    type Wait = fn(&JobHandle) -> JobRecord;
    let waits: [(&str, Wait); 4] = [
        ("wait", JobHandle::wait),
        ("wait_timeout", |handle| handle.wait_timeout(FOREVER).expect("long before the limit")),
        ("wait_deadline", |handle| {
            handle.wait_deadline(Instant::now() + FOREVER).expect("long before the limit")
        }),
        ("done", |handle| {
            wait_fired(&handle.done());
            handle.try_wait().expect("finished when done fires")
        }),
    ];
    for (name, wait) in waits {
        watchdog(move || {
            let delegator = delegator(2);
            let (one, two) = (occupy(&delegator), occupy(&delegator));
            let ran = Counter::new();
            let deadline = Instant::now() + BRIEF;
            let handle = delegator.submit(counted(&ran).with_deadline(deadline)).expect("accepted");
            let record = wait(&handle);
            assert!(Instant::now() >= deadline, "{name} came back early");
            assert_never_started(&record);
            assert_eq!(handle.state(), JobState::TimedOut);
            assert!(
                !one.handle.is_finished() && !two.handle.is_finished(),
                "{name} had to wait for a worker"
            );
            assert!(delegator.registry().get(handle.id()).is_some());
            one.release();
            two.release();
            delegator.wait_idle();
            assert_eq!(ran.get(), 0, "{name}");
            assert_eq!(delegator.stats().timed_out, 1, "{name}");
        });
    }
}

#[test]
fn a_done_receiver_fires_at_the_deadline_of_a_queued_job_whose_handles_are_gone() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let deadline = Instant::now() + BRIEF;
        let handle = delegator.submit(yields("queued", *b"x").with_deadline(deadline)).expect("accepted");
        let (done, id) = (handle.done(), handle.id());
        drop(handle);
        wait_fired(&done);
        assert!(Instant::now() >= deadline);
        assert_never_started(&delegator.registry().get(id).expect("the registry knows it first"));
        assert!(!busy.handle.is_finished());
    });
}

#[test]
fn joining_a_queued_job_returns_the_timeout_at_its_deadline() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let handle = delegator.submit(yields("queued", *b"x").with_timeout(BRIEF)).expect("accepted");
        assert!(handle.join().is_err_and(|error| error.is_timeout()));
        assert!(!busy.handle.is_finished());
    });
}

#[test]
fn looking_at_a_queued_job_past_its_deadline_is_enough_to_end_it() {
    type Look = fn(&JobHandle) -> bool;
    let looks: [(&str, Look); 5] = [
        ("state", |handle| handle.state() == JobState::TimedOut),
        ("is_finished", JobHandle::is_finished),
        ("try_wait", |handle| handle.try_wait().is_some()),
        ("wait_timeout", |handle| handle.wait_timeout(Duration::ZERO).is_some()),
        ("wait_deadline", |handle| handle.wait_deadline(Instant::now()).is_some()),
    ];
    for (name, look) in looks {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let deadline = Instant::now() + BRIEF;
        let (flag, dropped) = DropFlag::new();
        let job = Job::new("queued", move |_| {
            let _captured = &flag;
            Ok(Vec::new())
        });
        let handle = delegator.submit(job.with_deadline(deadline)).expect("accepted");
        while Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(look(&handle), "{name}");
        assert!(dropped.is_open(), "{name}: the captures are gone with the job");
        assert_never_started(&handle.wait());
        assert_eq!(delegator.registry().len(), 1, "{name}");
        drop(busy);
    }
}

#[test]
fn a_job_that_nobody_looks_at_is_not_started_after_its_deadline() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let ran = Counter::new();
        let deadline = Instant::now() + BRIEF;
        let handles: Vec<_> = (0..3)
            .map(|_| delegator.submit(counted(&ran).with_deadline(deadline)).expect("accepted"))
            .collect();
        let in_time = delegator.submit(counted(&ran).with_timeout(FOREVER)).expect("accepted");
        while Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        busy.release();
        delegator.wait_idle();
        assert_eq!(ran.get(), 1, "only the one with time left");
        assert_eq!((delegator.stats().timed_out, delegator.stats().completed), (3, 2));
        assert_eq!(in_time.state(), JobState::Completed);
        for handle in handles {
            assert_never_started(&handle.wait());
        }
    });
}

#[test]
fn a_job_whose_deadline_passes_while_the_worker_drops_the_captures_of_another_is_not_started() {
    struct SlowDrop {
        until: Instant,
    }
    impl Drop for SlowDrop {
        fn drop(&mut self) {
            while Instant::now() <= self.until {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    watchdog(|| {
        let delegator = delegator(1);
        let deadline = Instant::now() + BRIEF * 5;
        let (started, release) = (Gate::new(), Gate::new());
        let slow = SlowDrop { until: deadline };
        let (opened, waited) = (started.clone(), release.clone());
        let first = Job::new("slow to drop", move |_| {
            let _captured = &slow;
            opened.open();
            waited.wait();
            Ok(Vec::new())
        });
        let first = delegator.submit(first).expect("accepted");
        started.wait();
        let ran = Counter::new();
        let second = delegator.submit(counted(&ran).with_deadline(deadline)).expect("accepted");
        release.open();
        delegator.wait_idle();
        assert_eq!(ran.get(), 0);
        assert_never_started(&second.wait());
        assert_eq!(first.wait().state(), JobState::Completed);
    });
}

#[test]
fn a_job_whose_deadline_passes_while_the_worker_drops_an_evicted_record_is_not_started() {
    #[derive(Debug)]
    struct SlowError {
        dropped: crossbeam_channel::Sender<()>,
        until: Instant,
    }
    impl std::fmt::Display for SlowError {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("slow to drop")
        }
    }
    impl std::error::Error for SlowError {}
    impl Drop for SlowError {
        fn drop(&mut self) {
            while Instant::now() <= self.until {
                thread::sleep(Duration::from_millis(1));
            }
            let _ = self.dropped.send(());
        }
    }
    watchdog(|| {
        let delegator =
            Delegator::builder().workers(1).retain(Retention::last(2)).build().expect("a delegator");
        let deadline = Instant::now() + BRIEF * 5;
        let (dropped, drops) = crossbeam_channel::unbounded();
        let to_be_evicted = Job::new("to be evicted", move |_| {
            Err(Error::new(SlowError { dropped: dropped.clone(), until: deadline }))
        });
        let failed = delegator.submit(to_be_evicted).expect("accepted").wait();
        drop(failed);
        let busy = occupy(&delegator);
        let evicts = delegator.submit(Job::new("evicts", |_| Ok(Vec::new()))).expect("accepted");
        let ran = Counter::new();
        let late = delegator.submit(counted(&ran).with_deadline(deadline)).expect("accepted");
        busy.release();
        delegator.wait_idle();
        assert_eq!(drops.try_iter().count(), 1);
        assert_eq!(ran.get(), 0);
        assert_never_started(&late.wait());
        assert_eq!(evicts.wait().state(), JobState::Completed);
    });
}

#[test]
fn a_job_whose_deadline_passed_before_its_submission_is_ended_by_the_submission() {
    let delegator = delegator(1);
    let busy = occupy(&delegator);
    let (flag, dropped) = DropFlag::new();
    let deadline = Instant::now() + BRIEF;
    let job = Job::new("too late", move |_| {
        let _captured = &flag;
        Ok(Vec::new())
    });
    let job = job.with_deadline(deadline);
    while Instant::now() <= deadline {
        thread::sleep(Duration::from_millis(1));
    }
    let handle = delegator.submit(job).expect("accepted");
    // Nobody has looked at the handle yet.
    assert!(dropped.is_open());
    let record = delegator.registry().get(handle.id()).expect("the registry knows it");
    assert_never_started(&record);
    assert_eq!((delegator.stats().timed_out, delegator.stats().queued), (1, 0));
    drop(busy);
}

#[test]
fn a_wait_that_gives_up_before_the_deadline_leaves_the_job_queued() {
    let delegator = delegator(1);
    let busy = occupy(&delegator);
    let handle = delegator.submit(yields("queued", *b"x").with_timeout(FOREVER)).expect("accepted");
    assert!(handle.wait_timeout(Duration::from_millis(2)).is_none());
    assert_eq!(handle.state(), JobState::Queued);
    busy.release();
    assert_eq!(handle.wait().state(), JobState::Completed);
}

#[test]
fn many_waiters_of_one_queued_job_all_return_at_its_deadline_and_it_counts_once() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let handle = delegator.submit(yields("queued", *b"x").with_timeout(BRIEF)).expect("accepted");
        let threads: Vec<_> = (0..6)
            .map(|n| {
                let handle = handle.clone();
                thread::spawn(move || {
                    if n % 2 == 0 {
                        handle.wait().state()
                    } else {
                        wait_fired(&handle.done());
                        handle.state()
                    }
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().expect("woke"), JobState::TimedOut);
        }
        let stats = delegator.stats();
        assert_eq!((stats.timed_out, stats.queued, stats.running, stats.submitted), (1, 0, 1, 2));
        busy.release();
        delegator.wait_idle();
        assert_eq!(delegator.stats().timed_out, 1);
        assert_eq!(
            delegator.registry().records().iter().filter(|record| record.id() == handle.id()).count(),
            1
        );
    });
}

#[test]
fn the_captures_of_a_queued_job_are_never_dropped_by_the_timer() {
    struct NoteThread(Arc<Mutex<Vec<ThreadId>>>);
    impl Drop for NoteThread {
        fn drop(&mut self) {
            self.0.lock().expect("no panic").push(thread::current().id());
        }
    }
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let dropped_on = Arc::new(Mutex::new(Vec::new()));
        let noted = NoteThread(Arc::clone(&dropped_on));
        let job = Job::new("queued", move |_| {
            let _captured = &noted;
            Ok(Vec::new())
        });
        let handle = delegator.submit(job.with_timeout(BRIEF)).expect("accepted");
        wait_fired(&handle.done());
        assert_never_started(&handle.wait());
        assert_eq!(
            *dropped_on.lock().expect("no panic"),
            [thread::current().id()],
            "the only thread that looked"
        );
        drop(busy);
    });
}

/// Runs a job past its deadline. Should the machine stand still for so long that the deadline comes before the start, then
/// again with more time.
fn run_past_the_deadline(operation: fn(&Context) -> Result<Vec<u8>, Error>) -> (JobRecord, Stats) {
    let mut limit = BRIEF * 5;
    loop {
        let delegator = delegator(1);
        let job = Job::new("runs late", operation).with_timeout(limit);
        let record = delegator.submit(job).expect("accepted").wait();
        if record.started_at().is_some() {
            return (record, delegator.stats());
        }
        limit *= 2;
    }
}

#[test]
fn a_deadline_wakes_the_running_operation_which_decides() {
    fn wait_for_the_end(ctx: &Context) {
        let deadline = ctx.deadline().expect("a deadline");
        wait_fired(&ctx.done());
        assert!(Instant::now() >= deadline);
        assert!(ctx.is_done());
    }
    type Operation = fn(&Context) -> Result<Vec<u8>, Error>;
    let operations: [(Operation, JobState); 5] = [
        (
            |ctx| {
                wait_for_the_end(ctx);
                ctx.check().map(|()| Vec::new())
            },
            JobState::TimedOut,
        ),
        (|ctx| ctx.sleep(FOREVER).map(|()| Vec::new()), JobState::TimedOut),
        (
            |ctx| {
                wait_for_the_end(ctx);
                Ok(b"late".to_vec())
            },
            JobState::Completed,
        ),
        (
            |ctx| {
                wait_for_the_end(ctx);
                Err("its own reason".into())
            },
            JobState::Failed,
        ),
        (
            |ctx| {
                wait_for_the_end(ctx);
                panic!("past the deadline")
            },
            JobState::Panicked,
        ),
    ];
    for (operation, state) in operations {
        let (record, stats) = watchdog(move || run_past_the_deadline(operation));
        assert_eq!(record.state(), state, "{record}");
        let overrun = record.overrun().expect("it ran past its deadline");
        assert!(overrun > Duration::ZERO && overrun <= record.run_time());
        let counts = [stats.completed, stats.failed, stats.panicked, stats.cancelled, stats.timed_out];
        let states = [
            JobState::Completed,
            JobState::Failed,
            JobState::Panicked,
            JobState::Cancelled,
            JobState::TimedOut,
        ];
        assert_eq!(counts, states.map(|other| u64::from(other == state)));
    }
}

#[test]
fn a_wait_for_a_running_job_does_not_return_at_its_deadline() {
    watchdog(|| {
        let delegator = delegator(1);
        let (past_deadline, release) = (Gate::new(), Gate::new());
        let (opened, waited) = (past_deadline.clone(), release.clone());
        let job = Job::new("late", move |ctx| {
            wait_fired(&ctx.done());
            opened.open();
            waited.wait();
            Ok(b"late".to_vec())
        });
        let handle = delegator.submit(job.with_timeout(PATIENCE / 60)).expect("accepted");
        let done = handle.done();
        past_deadline.wait();
        assert_eq!(handle.state(), JobState::Running);
        assert!(handle.wait_timeout(Duration::ZERO).is_none());
        assert!(!fired(&done));
        release.open();
        assert_eq!(handle.wait().payload(), Some(&b"late"[..]));
    });
}

#[test]
fn the_deadline_of_a_child_context_is_a_plain_failure_of_the_job() {
    let delegator = delegator(1);
    let job = Job::new("impatient", |ctx| {
        ctx.with_timeout(Duration::ZERO).check()?;
        Ok(Vec::new())
    });
    let record = delegator.submit(job.with_timeout(FOREVER)).expect("accepted").wait();
    assert_eq!(record.state(), JobState::Failed);
    assert!(record.error().is_some_and(Error::is_timeout), "the error itself is kept");
}

#[test]
fn the_timeout_of_another_job_is_a_plain_failure() {
    watchdog(|| {
        let delegator = Arc::new(delegator(1));
        let pool = Arc::clone(&delegator);
        let outer = Job::new("outer", move |_| {
            let inner = pool.submit(yields("inner", *b"never").with_timeout(Duration::ZERO))?;
            inner.join()
        });
        let record = delegator.submit(outer).expect("accepted").wait();
        assert_eq!(record.state(), JobState::Failed);
        assert!(record.error().is_some_and(Error::is_timeout));
    });
}

#[test]
fn a_deadline_before_a_cancel_is_a_timeout_and_after_it_a_cancellation() {
    watchdog(|| {
        let delegator = delegator(1);
        let wait_then_check = |started: &Gate, release: &Gate| {
            let (started, release) = (started.clone(), release.clone());
            Job::new("checks", move |ctx| {
                started.open();
                release.wait();
                wait_fired(&ctx.done());
                let deadline = ctx.deadline().expect("a deadline");
                while Instant::now() <= deadline {
                    thread::sleep(Duration::from_millis(1));
                }
                ctx.check()?;
                Ok(Vec::new())
            })
        };
        let limit = PATIENCE / 60;
        let (started, release) = (Gate::new(), Gate::new());
        let deadline = Instant::now() + limit;
        let handle =
            delegator.submit(wait_then_check(&started, &release).with_deadline(deadline)).expect("accepted");
        started.wait();
        while Instant::now() <= deadline {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(handle.cancel_with("too late"));
        release.open();
        let record = handle.wait();
        assert_eq!(record.state(), JobState::TimedOut);
        assert!(record.error().is_some_and(|error| error.get_ref().is_none()));

        let (started, release) = (Gate::new(), Gate::new());
        let deadline = Instant::now() + limit;
        let handle =
            delegator.submit(wait_then_check(&started, &release).with_deadline(deadline)).expect("accepted");
        started.wait();
        assert!(handle.cancel_with("in time"));
        let in_time = Instant::now() < deadline;
        release.open();
        let record = handle.wait();
        if in_time {
            assert_eq!(record.state(), JobState::Cancelled);
            assert_eq!(
                record.error().and_then(Error::get_ref).map(ToString::to_string).as_deref(),
                Some("in time")
            );
        }
    });
}

#[test]
fn a_cancel_of_a_queued_job_that_comes_after_its_deadline_comes_too_late() {
    let delegator = delegator(1);
    let busy = occupy(&delegator);
    let deadline = Instant::now() + BRIEF;
    let by_handle = delegator.submit(yields("queued", *b"x").with_deadline(deadline)).expect("accepted");
    let (ctx, canceller) = Context::background().with_cancel();
    let by_context = delegator
        .submit(yields("queued", *b"x").with_context(&ctx).with_deadline(deadline))
        .expect("accepted");
    while Instant::now() <= deadline {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(!by_handle.cancel_with("too late"));
    canceller.cancel_with("too late");
    for handle in [by_handle, by_context] {
        assert_never_started(&handle.wait());
    }
    drop(busy);
}

#[test]
fn no_time_at_all_ends_a_job_at_once_without_running_it() {
    type Limit = fn(Job) -> Job;
    let limits: [Limit; 4] = [
        |job| job.with_timeout(Duration::ZERO),
        |job| job.with_deadline(Instant::now()),
        |job| {
            let now = Instant::now();
            job.with_deadline(now.checked_sub(Duration::from_millis(5)).unwrap_or(now))
        },
        |job| job.with_context(&Context::background().with_timeout(Duration::ZERO)),
    ];
    let delegator = delegator(1);
    let ran = Counter::new();
    for limit in limits {
        let handle = delegator.submit(limit(counted(&ran))).expect("accepted");
        assert!(handle.is_finished());
        assert_never_started(&handle.wait());
    }
    delegator.wait_idle();
    assert_eq!(ran.get(), 0);
    assert_eq!(
        (delegator.stats().submitted, delegator.stats().timed_out, delegator.stats().rejected),
        (4, 4, 0)
    );
}

#[test]
fn a_submit_that_blocks_past_the_deadline_of_its_job_returns_an_ended_handle() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(1).queue_capacity(1).build().expect("a delegator");
        let busy = occupy(&delegator);
        let filler = delegator.submit(yields("filler", *b"f")).expect("the one place");
        let ran = Counter::new();
        let deadline = Instant::now() + BRIEF;
        let handle = delegator.submit(counted(&ran).with_deadline(deadline)).expect("accepted and ended");
        assert!(Instant::now() >= deadline);
        assert_never_started(&handle.wait());
        let stats = delegator.stats();
        assert_eq!((stats.submitted, stats.timed_out, stats.rejected), (3, 1, 0));
        busy.release();
        assert_eq!(filler.wait().state(), JobState::Completed);
        delegator.wait_idle();
        assert_eq!(ran.get(), 0);
    });
}

#[test]
fn a_timeout_longer_than_the_clock_means_no_deadline() {
    watchdog(|| {
        let delegator =
            Delegator::builder().workers(1).default_timeout(Duration::MAX).build().expect("a delegator");
        assert_eq!(deadline_seen(&delegator, |job| job), None);
        assert_eq!(deadline_seen(&delegator, |job| job.with_timeout(Duration::MAX)), None);
        let handle = delegator.submit(yields("job", *b"x").with_timeout(Duration::MAX)).expect("accepted");
        let record = handle.wait_timeout(Duration::MAX).expect("MAX is for ever");
        assert_eq!(record.state(), JobState::Completed);
        assert_eq!(record.overrun(), None);
    });
}

#[test]
fn the_earliest_of_all_deadlines_wins_in_any_order() {
    let delegator = delegator(1);
    let now = Instant::now();
    let (near, far) = (now + FOREVER, now + FOREVER * 2);
    let near_ctx = Context::background().with_deadline(near);
    let far_ctx = Context::background().with_deadline(far);
    assert_eq!(deadline_seen(&delegator, |job| job.with_deadline(near)), Some(near));
    assert_eq!(deadline_seen(&delegator, |job| job.with_context(&near_ctx)), Some(near));
    assert_eq!(deadline_seen(&delegator, |job| job.with_deadline(near).with_deadline(far)), Some(near));
    assert_eq!(deadline_seen(&delegator, |job| job.with_deadline(far).with_deadline(near)), Some(near));
    assert_eq!(deadline_seen(&delegator, |job| job.with_deadline(far).with_context(&near_ctx)), Some(near));
    assert_eq!(deadline_seen(&delegator, |job| job.with_context(&near_ctx).with_deadline(far)), Some(near));
    assert_eq!(deadline_seen(&delegator, |job| job.with_deadline(near).with_context(&far_ctx)), Some(near));
    assert_eq!(deadline_seen(&delegator, |job| job.with_context(&far_ctx).with_deadline(near)), Some(near));
    assert_eq!(
        deadline_seen(&delegator, |job| job.with_deadline(near).with_timeout(FOREVER * 3)),
        Some(near)
    );
    assert_eq!(
        deadline_seen(&delegator, |job| job.with_timeout(FOREVER * 3).with_deadline(near)),
        Some(near)
    );
    assert_eq!(
        deadline_seen(&delegator, |job| job.with_timeout(FOREVER * 3).with_context(&near_ctx)),
        Some(near)
    );
    assert_eq!(
        deadline_seen(&delegator, |job| job.with_timeout(Duration::MAX).with_context(&near_ctx)),
        Some(near)
    );
    assert_eq!(deadline_seen(&delegator, |job| job), None);
}

#[test]
fn the_context_of_a_job_shows_its_limits_before_it_is_submitted() {
    let near = Instant::now() + FOREVER;
    let (ctx, canceller) = Context::background().with_value("key", 5_u8).with_cancel();
    let job = yields("job", *b"x").with_deadline(near).with_context(&ctx);
    assert_eq!(job.context().deadline(), Some(near));
    assert_eq!(job.context().value::<u8>("key"), Some(&5));
    assert!(!job.context().is_done());
    canceller.cancel();
    assert!(job.context().is_done());
    assert_eq!(yields("bare", *b"x").context().deadline(), None);
}

#[test]
fn a_deadline_of_the_job_does_not_touch_the_context_it_was_given() {
    let delegator = delegator(1);
    let ctx = Context::background().with_timeout(FOREVER);
    let deadline = ctx.deadline();
    let handle = delegator
        .submit(yields("job", *b"x").with_context(&ctx).with_timeout(Duration::ZERO))
        .expect("accepted");
    assert_never_started(&handle.wait());
    assert!(!ctx.is_done());
    assert_eq!(ctx.deadline(), deadline);
}

#[test]
fn the_default_timeout_counts_from_submission() {
    let delegator = Delegator::builder().workers(1).default_timeout(FOREVER).build().expect("a delegator");
    let answer = Arc::new(Mutex::new(None));
    let job = asks_for_deadline(&answer);
    thread::sleep(BRIEF);
    let before = Instant::now();
    let handle = delegator.submit(job).expect("accepted");
    let after = Instant::now();
    assert_eq!(handle.wait().state(), JobState::Completed);
    let deadline = answer.lock().expect("no panic").expect("ran").expect("a deadline");
    assert!(before + FOREVER <= deadline, "not from the creation of the job");
    assert!(deadline <= after + FOREVER, "not from the start of the operation or later");
}

#[test]
fn a_cancelled_context_ends_a_job_at_once_in_spite_of_a_default_timeout() {
    let delegator = Delegator::builder().workers(1).default_timeout(FOREVER).build().expect("a delegator");
    let busy = occupy(&delegator);
    let (context, canceller) = Context::background().with_cancel();
    canceller.cancel();
    let job = Job::new("late", |_| Ok(Vec::new())).with_context(&context);
    let handle = delegator.submit(job).expect("accepted");
    // Before anybody has looked at the job.
    assert_eq!(delegator.stats().cancelled, 1);
    assert_eq!(handle.state(), JobState::Cancelled);
    drop(busy);
}

#[test]
fn the_default_timeout_applies_only_to_jobs_without_a_deadline_of_their_own() {
    let delegator = Delegator::builder().workers(1).default_timeout(FOREVER).build().expect("a delegator");
    let own = Instant::now() + FOREVER * 3;
    let ctx = Context::background().with_deadline(own);
    assert_eq!(deadline_seen(&delegator, |job| job.with_deadline(own)), Some(own));
    assert_eq!(deadline_seen(&delegator, |job| job.with_context(&ctx)), Some(own));
    let (cancellable, _keep) = Context::background().with_value("key", 1_u8).with_cancel();
    let applied = deadline_seen(&delegator, |job| job.with_context(&cancellable)).expect("the default");
    assert!(applied < own);
    assert_eq!(cancellable.deadline(), None, "the context of the submitter stays as it is");
}

#[test]
fn the_default_timeout_ends_queued_jobs_and_reaches_running_ones() {
    watchdog(|| {
        let limit = PATIENCE / 60;
        let delegator = Delegator::builder().workers(1).default_timeout(limit).build().expect("a delegator");
        let running = delegator
            .submit(Job::new("runs", |ctx| ctx.sleep(FOREVER).map(|()| Vec::new())))
            .expect("accepted");
        assert_eq!(running.wait().state(), JobState::TimedOut);

        let busy = occupy(&delegator);
        let submitted = Instant::now();
        let queued = delegator.submit(yields("queued", *b"x")).expect("accepted");
        assert_never_started(&queued.wait());
        assert!(submitted.elapsed() >= limit);
        drop(busy);
    });
}

#[test]
fn a_default_timeout_of_zero_ends_every_job_that_sets_none() {
    let delegator =
        Delegator::builder().workers(1).default_timeout(Duration::ZERO).build().expect("a delegator");
    assert_never_started(&delegator.submit(yields("bare", *b"x")).expect("accepted").wait());
    let own = delegator.submit(yields("own", *b"x").with_timeout(FOREVER)).expect("accepted");
    assert_eq!(own.wait().state(), JobState::Completed);
}

#[test]
fn a_refused_job_gets_a_fresh_default_timeout_when_it_is_submitted_again() {
    watchdog(|| {
        let delegator = Delegator::builder()
            .workers(1)
            .queue_capacity(1)
            .default_timeout(FOREVER)
            .build()
            .expect("a delegator");
        let busy = occupy(&delegator);
        let filler = delegator.submit(yields("filler", *b"f")).expect("the one place");
        let answer = Arc::new(Mutex::new(None));
        let job = delegator.try_submit(asks_for_deadline(&answer)).expect_err("full").into_job();
        assert_eq!(job.context().deadline(), None, "it comes back unchanged");
        thread::sleep(BRIEF);
        let before = Instant::now();
        busy.release();
        assert_eq!(filler.wait().state(), JobState::Completed);
        assert_eq!(delegator.submit(job).expect("accepted").wait().state(), JobState::Completed);
        let deadline = answer.lock().expect("no panic").expect("ran").expect("a deadline");
        assert!(before + FOREVER <= deadline);
    });
}

#[test]
fn a_job_that_a_shutdown_hands_back_has_no_default_timeout_left() {
    watchdog(|| {
        let delegator =
            Delegator::builder().workers(1).default_timeout(FOREVER).build().expect("a delegator");
        let busy = occupy(&delegator);
        let answer = Arc::new(Mutex::new(None));
        let own = Instant::now() + FOREVER * 2;
        let handles = [
            delegator.submit(asks_for_deadline(&answer)).expect("accepted"),
            delegator.submit(yields("own", *b"x").with_deadline(own)).expect("accepted"),
        ];
        let report = thread::scope(|scope| {
            let closing = scope.spawn(|| delegator.shutdown(Shutdown::cancel()));
            handles.iter().for_each(|handle| wait_fired(&handle.done()));
            busy.release();
            closing.join().expect("a report")
        });
        let deadlines: Vec<_> = report.unstarted.iter().map(|job| job.context().deadline()).collect();
        assert_eq!(deadlines, [None, Some(own)], "they come back as they were given");
    });
}

#[test]
fn an_expired_job_frees_its_place_when_a_worker_has_skipped_it() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(1).queue_capacity(2).build().expect("a delegator");
        let busy = occupy(&delegator);
        let deadline = Instant::now() + BRIEF;
        let expired: Vec<_> = (0..2)
            .map(|_| delegator.submit(yields("expired", *b"x").with_deadline(deadline)).expect("a place"))
            .collect();
        for handle in &expired {
            assert_never_started(&handle.wait());
        }
        assert_eq!(delegator.stats().queued, 0, "what has ended is not queued");
        busy.release();
        let next = delegator.submit(yields("next", *b"n")).expect("there is room again");
        assert_eq!(next.wait().state(), JobState::Completed);
        assert_eq!(delegator.stats().timed_out, 2);
    });
}

#[test]
fn ten_threads_that_wait_with_no_time_all_come_back_empty_handed() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let start = Arc::new(Barrier::new(10));
        let threads: Vec<_> = (0..10)
            .map(|_| {
                let (handle, start) = (busy.handle.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    handle.wait_timeout(Duration::ZERO).is_none()
                        && handle.wait_deadline(Instant::now()).is_none()
                })
            })
            .collect();
        assert!(threads.into_iter().all(|thread| thread.join().expect("came back")));
    });
}

#[test]
fn limits_at_the_edge_of_the_clock_are_no_limits() {
    watchdog(|| {
        let delegator = delegator(1);
        let edges = [
            Duration::MAX,
            Duration::MAX / 2,
            Duration::from_secs(u64::MAX / 2),
            Duration::from_secs(u64::MAX / 4),
        ];
        for limit in edges {
            let (started, release) = (Gate::new(), Gate::new());
            let handle = delegator
                .submit_timeout(common::gated("gated", &started, &release).with_timeout(limit), limit)
                .expect("accepted");
            started.wait();
            let waiter = {
                let handle = handle.clone();
                thread::spawn(move || handle.wait_timeout(limit).map(|record| record.state()))
            };
            thread::sleep(Duration::from_millis(2));
            assert_eq!(handle.state(), JobState::Running);
            release.open();
            assert_eq!(waiter.join().expect("no panic"), Some(JobState::Completed));
        }
    });
}
