//! The four ways to submit a job: what they accept, when they wait, and what comes back when they refuse.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{BRIEF, Counter, DropFlag, FOREVER, Gate, eventually, fired, gated, occupy, watchdog, yields};
use pool::{Door, FORMS, Form, NOT_WAITING, WAITING, assert_balanced, fill, keeps, pause, sized};
use workpath::{Context, Delegator, Job, JobHandle, JobState, Shutdown, SubmitError};

/// The instant that is as far away as the clock can tell.
fn furthest() -> Instant {
    let mut instant = Instant::now();
    let mut step = Duration::MAX;
    while step > Duration::from_nanos(1) {
        match instant.checked_add(step) {
            Some(later) => instant = later,
            None => step /= 2,
        }
    }
    instant
}

#[test]
fn every_form_gets_a_job_run() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let submitter = delegator.submitter();
        for form in FORMS {
            let record = delegator.enter(form, yields("direct", "by the front")).expect("room").wait();
            assert_eq!(
                (record.state(), record.payload()),
                (JobState::Completed, Some(&b"by the front"[..])),
                "{form:?}"
            );
            let record = submitter.enter(form, yields("lent", "by the side")).expect("room").wait();
            assert_eq!(
                (record.state(), record.payload()),
                (JobState::Completed, Some(&b"by the side"[..])),
                "{form:?}"
            );
        }
    });
}

#[test]
fn a_handle_has_the_identity_of_the_job_that_was_submitted() {
    watchdog(|| {
        let delegator = sized(1, 8);
        for form in FORMS {
            let job = yields("known", "");
            let id = job.id();
            let handle = delegator.enter(form, job).expect("room");
            assert_eq!(handle.id(), id);
            assert_eq!(handle.name(), "known");
            assert_eq!(handle.wait().id(), id);
        }
    });
}

#[test]
fn the_queue_holds_exactly_its_capacity() {
    watchdog(|| {
        for capacity in [1, 2, 7] {
            let delegator = sized(1, capacity);
            let busy = occupy(&delegator);
            let accepted = fill(&delegator, capacity);
            for form in NOT_WAITING {
                assert!(delegator.enter(form, yields("one too many", "")).is_err(), "{form:?} at {capacity}");
            }
            assert_eq!(delegator.stats().queued, capacity);
            busy.release();
            assert!(accepted.iter().all(|handle| handle.wait().state() == JobState::Completed));
        }
    });
}

#[test]
fn a_full_queue_says_full_or_timeout_and_a_closed_one_says_shut_down() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 1));
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let job = || yields("refused", "");
        assert!(matches!(delegator.try_submit(job()), Err(SubmitError::Full(_))));
        assert!(matches!(delegator.submit_timeout(job(), Duration::ZERO), Err(SubmitError::Timeout(_))));
        assert!(matches!(delegator.submit_timeout(job(), BRIEF), Err(SubmitError::Timeout(_))));
        assert!(matches!(delegator.submit_deadline(job(), Instant::now()), Err(SubmitError::Timeout(_))));
        assert!(matches!(
            delegator.submit_deadline(job(), Instant::now() + BRIEF),
            Err(SubmitError::Timeout(_))
        ));

        let closing = thread::spawn({
            let delegator = Arc::clone(&delegator);
            move || delegator.shutdown(Shutdown::drain())
        });
        eventually("the delegator is closed", || {
            matches!(delegator.try_submit(job()), Err(SubmitError::ShutDown(_)))
        });
        for form in FORMS.into_iter().chain(NOT_WAITING) {
            assert!(
                matches!(delegator.enter(form, job()), Err(SubmitError::ShutDown(_))),
                "closing: {form:?}"
            );
            assert!(
                matches!(delegator.submitter().enter(form, job()), Err(SubmitError::ShutDown(_))),
                "{form:?}"
            );
        }
        busy.release();
        assert_eq!(closing.join().unwrap().completed, 2, "what was refused must not run");
        for form in FORMS.into_iter().chain(NOT_WAITING) {
            assert!(
                matches!(delegator.enter(form, job()), Err(SubmitError::ShutDown(_))),
                "closed: {form:?}"
            );
        }
    });
}

#[test]
fn a_refused_job_comes_back_unchanged_and_can_be_submitted_again() {
    watchdog(|| {
        for form in [Form::Try, Form::Timeout(Duration::ZERO), Form::Timeout(BRIEF), Form::Deadline(BRIEF)] {
            // The default must not rub off on a job that was not accepted.
            let delegator =
                Delegator::builder().workers(1).queue_capacity(1).default_timeout(FOREVER).build().unwrap();
            let busy = occupy(&delegator);
            let _queued = fill(&delegator, 1);
            let (flag, dropped) = DropFlag::new();
            let ctx = Context::background().with_value("key", 7_u8);
            let job = Job::new("refused", move |ctx| {
                let _owned = &flag;
                Ok(vec![*ctx.value::<u8>("key").ok_or("no value")?])
            })
            .with_context(&ctx);
            let (id, created) = (job.id(), job.created_at());

            let error = delegator.enter(form, job).expect_err("the queue is full");
            assert!(!dropped.is_open());
            let job = error.into_job();
            assert_eq!((job.id(), job.created_at()), (id, created));
            assert_eq!(job.name(), "refused");
            assert_eq!(job.context().value::<u8>("key"), Some(&7));
            assert_eq!(job.context().deadline(), None);
            assert!(!job.context().is_done());
            assert!(!dropped.is_open(), "{form:?} dropped what the job owns");

            busy.release();
            let record = delegator.submit(job).expect("room").wait();
            assert_eq!((record.id(), record.payload()), (id, Some(&[7_u8][..])));
            assert!(dropped.is_open());
        }
    });
}

#[test]
fn every_refusal_hands_over_its_own_job() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let refused: Vec<_> = (0..20)
            .map(|n| {
                let job = yields("mine", [n]);
                (job.id(), delegator.try_submit(job).expect_err("full"))
            })
            .collect();
        busy.release();
        for (n, (id, error)) in refused.into_iter().enumerate() {
            let record = delegator.submit(error.into_job()).expect("room").wait();
            assert_eq!((record.id(), record.payload()), (id, Some(&[n as u8][..])));
        }
    });
}

#[test]
fn a_refused_job_leaves_nothing_behind() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let before = delegator.stats();
        let (flag, dropped) = DropFlag::new();
        let error = delegator.try_submit(keeps("refused", flag)).expect_err("full");
        let id = error.into_job().id();
        assert!(dropped.is_open(), "the refused job has another owner");
        assert!(delegator.registry().get(id).is_none());
        let after = delegator.stats();
        assert_eq!(
            (after.submitted, after.queued, after.running),
            (before.submitted, before.queued, before.running)
        );
        assert_eq!(after.rejected, before.rejected + 1);
        busy.release();
        delegator.wait_idle();
        assert!(delegator.registry().get(id).is_none());
        assert_eq!(delegator.stats().completed, 2);
    });
}

#[test]
fn a_timed_submit_is_never_early() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let _busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let limit = Duration::from_millis(30);
        let start = Instant::now();
        assert!(delegator.submit_timeout(yields("late", ""), limit).is_err());
        assert!(start.elapsed() >= limit);
        let deadline = Instant::now() + limit;
        assert!(delegator.submit_deadline(yields("late", ""), deadline).is_err());
        assert!(Instant::now() >= deadline);
    });
}

#[test]
fn a_timed_submit_without_any_time_succeeds_when_there_is_room() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let _busy = occupy(&delegator);
        let now = Instant::now();
        assert!(delegator.submit_timeout(yields("at once", ""), Duration::ZERO).is_ok());
        assert!(delegator.submit_deadline(yields("at once", ""), now).is_ok());
        if let Some(past) = now.checked_sub(Duration::from_millis(5)) {
            assert!(delegator.submit_deadline(yields("at once", ""), past).is_ok());
        }
    });
}

#[test]
fn a_timed_submit_gets_in_when_there_is_room_in_time() {
    watchdog(|| {
        for form in [Form::Timeout(FOREVER), Form::Deadline(FOREVER)] {
            let delegator = sized(1, 1);
            let busy = occupy(&delegator);
            let _queued = fill(&delegator, 1);
            assert!(delegator.submit_timeout(yields("before", ""), BRIEF).is_err());
            let submitter = delegator.submitter();
            let blocked = thread::spawn(move || submitter.enter(form, yields("blocked", "in")));
            pause();
            assert!(!blocked.is_finished());
            busy.release();
            let record = blocked.join().unwrap().expect("there was room in time").wait();
            assert_eq!(record.payload(), Some(&b"in"[..]));
        }
    });
}

#[test]
fn a_time_too_large_for_the_clock_is_no_limit() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 1));
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let by_timeout = thread::spawn({
            let delegator = Arc::clone(&delegator);
            move || delegator.submit_timeout(yields("forever", ""), Duration::MAX)
        });
        let by_deadline = thread::spawn({
            let delegator = Arc::clone(&delegator);
            move || delegator.submit_deadline(yields("forever", ""), furthest())
        });
        pause();
        assert!(!by_timeout.is_finished() && !by_deadline.is_finished());
        busy.release();
        assert_eq!(by_timeout.join().unwrap().expect("no limit").wait().state(), JobState::Completed);
        assert_eq!(by_deadline.join().unwrap().expect("no limit").wait().state(), JobState::Completed);
    });
}

#[test]
fn a_blocked_submit_waits_until_there_is_room() {
    watchdog(|| {
        for form in WAITING {
            let delegator = sized(1, 1);
            let busy = occupy(&delegator);
            let queued = fill(&delegator, 1);
            let submitter = delegator.submitter();
            let blocked = thread::spawn(move || submitter.enter(form, yields("blocked", "")));
            pause();
            assert!(!blocked.is_finished(), "{form:?} got in though there was no room");
            assert_eq!(delegator.stats().submitted, 2, "counted before it was accepted");
            busy.release();
            let handle = blocked.join().unwrap().expect("room");
            assert_eq!(handle.wait().state(), JobState::Completed);
            assert!(queued[0].is_finished());
        }
    });
}

#[test]
fn all_blocked_submits_get_in_one_after_the_other() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let ran = Counter::new();
        let blocked: Vec<_> = (0..6)
            .map(|n| {
                let (submitter, ran) = (delegator.submitter(), ran.clone());
                thread::spawn(move || {
                    let job = Job::new("blocked", move |_| {
                        ran.add();
                        Ok(Vec::new())
                    });
                    submitter.enter(WAITING[n % WAITING.len()], job)
                })
            })
            .collect();
        pause();
        assert!(blocked.iter().all(|thread| !thread.is_finished()));
        busy.release();
        for thread in blocked {
            assert_eq!(thread.join().unwrap().expect("room").wait().state(), JobState::Completed);
        }
        assert_eq!(ran.get(), 6);
        assert_eq!(delegator.stats().rejected, 0);
    });
}

#[test]
fn room_for_one_lets_in_one_blocked_submit() {
    watchdog(|| {
        for capacity in [1, 2, 8, 100] {
            let delegator = sized(1, capacity);
            let busy = occupy(&delegator);
            let (started, release) = (Gate::new(), Gate::new());
            let next = delegator.submit(gated("next", &started, &release)).expect("room");
            let queued = fill(&delegator, capacity - 1);
            let blocked: Vec<_> = (0..2)
                .map(|_| {
                    let submitter = delegator.submitter();
                    thread::spawn(move || submitter.submit(yields("blocked", "")))
                })
                .collect();
            pause();
            assert!(blocked.iter().all(|thread| !thread.is_finished()));
            busy.release();
            started.wait();
            // One place is free now, and the worker makes no other.
            eventually("one of them is in", || blocked.iter().any(thread::JoinHandle::is_finished));
            pause();
            assert_eq!(blocked.iter().filter(|thread| thread.is_finished()).count(), 1);
            assert_eq!(next.state(), JobState::Running);
            release.open();
            for thread in blocked {
                assert_eq!(thread.join().unwrap().expect("room").wait().state(), JobState::Completed);
            }
            assert!(queued.iter().all(JobHandle::is_finished));
        }
    });
}

#[test]
fn room_for_several_lets_in_several_blocked_submits() {
    watchdog(|| {
        for capacity in [3, 8] {
            let delegator = sized(1, capacity);
            let busy = occupy(&delegator);
            let queued = fill(&delegator, capacity);
            let release = Gate::new();
            let blocked: Vec<_> = (0..capacity)
                .map(|_| {
                    let (submitter, job) = (delegator.submitter(), gated("holds on", &Gate::new(), &release));
                    thread::spawn(move || submitter.submit(job))
                })
                .collect();
            pause();
            assert!(blocked.iter().all(|thread| !thread.is_finished()));
            // The worker skips them all, takes the first job that comes in, and keeps at it.
            assert!(queued.iter().all(JobHandle::cancel));
            busy.release();
            let handles: Vec<_> =
                blocked.into_iter().map(|thread| thread.join().unwrap().expect("room")).collect();
            assert!(handles.iter().all(|handle| !handle.is_finished()));
            release.open();
            assert!(handles.iter().all(|handle| handle.wait().state() == JobState::Completed));
        }
    });
}

#[test]
fn a_blocked_submit_does_not_get_in_the_way_of_others() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let busy = occupy(&delegator);
        let queued = fill(&delegator, 1);
        let submitter = delegator.submitter();
        let blocked = thread::spawn(move || submitter.submit(yields("blocked", "")));
        pause();
        assert!(delegator.try_submit(yields("other", "")).is_err());
        assert_eq!(delegator.stats().running, 1);
        assert_eq!(delegator.workers().len(), 1);
        assert!(delegator.registry().is_empty());
        assert_eq!(queued[0].state(), JobState::Queued);
        assert!(!delegator.wait_idle_timeout(Duration::ZERO));
        let _text = format!("{delegator:?} {:?}", delegator.submitter());
        busy.release();
        assert_eq!(blocked.join().unwrap().expect("room").wait().state(), JobState::Completed);
    });
}

#[test]
fn a_blocked_submit_ends_when_its_context_is_cancelled() {
    watchdog(|| {
        for form in WAITING {
            let delegator = sized(1, 1);
            let _busy = occupy(&delegator);
            let _queued = fill(&delegator, 1);
            let (ctx, canceller) = Context::background().with_cancel();
            let (flag, dropped) = DropFlag::new();
            let job = keeps("given up", flag).with_context(&ctx);
            let submitter = delegator.submitter();
            let blocked = thread::spawn(move || submitter.enter(form, job));
            pause();
            assert!(!blocked.is_finished());
            canceller.cancel_with("enough");

            let handle = blocked.join().unwrap().expect("not refused: accepted and ended");
            let record = handle.try_wait().expect("ended");
            assert_eq!((record.state(), record.started_at()), (JobState::Cancelled, None));
            assert_eq!(record.error().and_then(|e| e.get_ref()).expect("a cause").to_string(), "enough");
            assert!(dropped.is_open());
            assert!(delegator.registry().get(handle.id()).is_some());
            let stats = delegator.stats();
            assert_eq!((stats.submitted, stats.cancelled, stats.rejected), (3, 1, 0));
            assert_balanced(&stats);
        }
    });
}

#[test]
fn a_blocked_submit_ends_at_the_deadline_of_its_context() {
    watchdog(|| {
        for form in WAITING {
            let delegator = sized(1, 1);
            let _busy = occupy(&delegator);
            let _queued = fill(&delegator, 1);
            let deadline = Instant::now() + Duration::from_millis(40);
            let (flag, dropped) = DropFlag::new();
            let job = keeps("too late", flag).with_deadline(deadline);
            let handle = delegator.enter(form, job).expect("not refused: accepted and ended");
            assert!(Instant::now() >= deadline);
            let record = handle.try_wait().expect("ended");
            assert_eq!((record.state(), record.started_at()), (JobState::TimedOut, None));
            assert!(dropped.is_open());
            let stats = delegator.stats();
            assert_eq!((stats.submitted, stats.timed_out, stats.rejected), (3, 1, 0));
            assert_balanced(&stats);
        }
    });
}

#[test]
fn what_ends_first_ends_a_timed_submit() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let _busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let ends_itself = yields("short", "").with_timeout(BRIEF);
        let handle = delegator.submit_timeout(ends_itself, FOREVER).expect("ended by its own deadline");
        assert_eq!(handle.state(), JobState::TimedOut);
        let patient = yields("long", "").with_timeout(FOREVER);
        assert!(matches!(delegator.submit_timeout(patient, BRIEF), Err(SubmitError::Timeout(_))));
    });
}

#[test]
fn a_blocked_submit_ends_when_the_delegator_shuts_down() {
    watchdog(|| {
        for form in WAITING {
            for shutdown in [Shutdown::drain(), Shutdown::drain().within(FOREVER), Shutdown::cancel()] {
                let delegator = Arc::new(sized(1, 1));
                let busy = occupy(&delegator);
                let _queued = fill(&delegator, 1);
                let (flag, dropped) = DropFlag::new();
                let job = keeps("turned away", flag);
                let id = job.id();
                let submitter = delegator.submitter();
                let blocked = thread::spawn(move || submitter.enter(form, job));
                pause();
                assert!(!blocked.is_finished());
                let closing = thread::spawn({
                    let delegator = Arc::clone(&delegator);
                    move || delegator.shutdown(shutdown)
                });
                // The worker is still busy: only the shutdown can end the wait.
                let error = blocked.join().unwrap().expect_err("the delegator shuts down");
                assert!(matches!(error, SubmitError::ShutDown(_)), "{form:?}: {error:?}");
                assert!(!dropped.is_open());
                assert_eq!(error.into_job().id(), id);
                busy.release();
                let report = closing.join().unwrap();
                assert_eq!(pool::covered(&report), 2, "{report:?}");
                assert_eq!((delegator.stats().submitted, delegator.stats().rejected), (2, 1));
            }
        }
    });
}

#[test]
fn many_blocked_submits_all_end_when_the_delegator_is_dropped() {
    watchdog(|| {
        let delegator = sized(2, 1);
        let (first, second) = (occupy(&delegator), occupy(&delegator));
        let _queued = fill(&delegator, 1);
        let blocked: Vec<_> = (0..8)
            .map(|_| {
                let submitter = delegator.submitter();
                thread::spawn(move || submitter.submit(yields("turned away", "")))
            })
            .collect();
        pause();
        let closing = thread::spawn(move || drop(delegator));
        for thread in blocked {
            assert!(matches!(thread.join().unwrap(), Err(SubmitError::ShutDown(_))));
        }
        first.release();
        second.release();
        closing.join().unwrap();
    });
}

#[test]
fn a_job_whose_context_is_done_is_accepted_and_ends_at_once() {
    let (cancelled, canceller) = Context::background().with_cancel();
    canceller.cancel_with("before it began");
    let expired = Context::background().with_timeout(Duration::ZERO);
    watchdog(move || {
        for capacity in [0, 1, 8] {
            let delegator = sized(1, capacity);
            let _busy = occupy(&delegator);
            let _queued = fill(&delegator, capacity.min(1));
            for form in FORMS.into_iter().chain(NOT_WAITING) {
                for (ctx, state) in [(&cancelled, JobState::Cancelled), (&expired, JobState::TimedOut)] {
                    let before = delegator.stats();
                    let (flag, dropped) = DropFlag::new();
                    let job = keeps("stillborn", flag).with_context(ctx);
                    let id = job.id();
                    let handle = delegator.enter(form, job).expect("accepted");
                    assert!(handle.is_finished(), "{form:?} {state}");
                    assert_eq!(handle.state(), state, "{form:?}");
                    assert!(fired(&handle.done()));
                    assert!(dropped.is_open(), "{form:?} {state}: still owns what the job captured");
                    let record = handle.wait();
                    assert_eq!((record.id(), record.started_at(), record.worker()), (id, None, None));
                    assert!(record.payload().is_none());
                    let error = record.error().expect("the handle says why");
                    assert_eq!(error.is_cancelled(), state == JobState::Cancelled);
                    assert_eq!(error.is_timeout(), state == JobState::TimedOut);
                    assert!(delegator.registry().get(id).is_some());
                    let after = delegator.stats();
                    assert_eq!((after.submitted, after.rejected), (before.submitted + 1, before.rejected));
                    assert_eq!(after.queued, before.queued);
                    assert_balanced(&after);
                }
            }
        }
    });
}

#[test]
fn a_job_whose_context_is_done_is_refused_after_shutdown() {
    watchdog(|| {
        let delegator = sized(1, 1);
        delegator.shutdown(Shutdown::drain());
        for form in FORMS {
            let job = yields("stillborn", "").with_timeout(Duration::ZERO);
            assert!(matches!(delegator.enter(form, job), Err(SubmitError::ShutDown(_))), "{form:?}");
        }
        assert_eq!((delegator.stats().submitted, delegator.stats().rejected), (0, 4));
    });
}

#[test]
fn a_submitter_outlives_its_delegator_and_says_shut_down() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let submitter = delegator.submitter();
        let copy = submitter.clone();
        assert!(submitter.submit(yields("in time", "")).is_ok());
        drop(delegator);
        for form in FORMS {
            let job = yields("too late", "");
            let id = job.id();
            let Err(SubmitError::ShutDown(job)) = copy.enter(form, job) else {
                panic!("{form:?} was not refused")
            };
            assert_eq!(job.id(), id);
        }
    });
}

#[test]
fn a_refused_job_can_be_tried_until_it_gets_in() {
    watchdog(|| {
        let delegator = sized(1, 2);
        let runs: Arc<Vec<AtomicUsize>> = Arc::new((0..1_000).map(|_| AtomicUsize::new(0)).collect());
        let mut handles = Vec::new();
        for n in 0..runs.len() {
            let seen = Arc::clone(&runs);
            let mut job = Job::new("recycled", move |_| {
                seen[n].fetch_add(1, Ordering::Relaxed);
                Ok(Vec::new())
            });
            let id = job.id();
            let handle = loop {
                match delegator.try_submit(job) {
                    Ok(handle) => break handle,
                    Err(SubmitError::Full(back)) => job = back,
                    Err(other) => panic!("{other}"),
                }
                thread::yield_now();
            };
            assert_eq!(handle.id(), id);
            handles.push(handle);
        }
        assert!(handles.iter().all(|handle| handle.wait().state() == JobState::Completed));
        assert!(runs.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        assert_eq!(delegator.stats().submitted, 1_000);
    });
}

#[test]
fn the_place_of_a_cancelled_job_can_be_used_once_a_worker_has_skipped_it() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let busy = occupy(&delegator);
        let queued = fill(&delegator, 1);
        assert!(queued[0].cancel());
        assert_eq!(delegator.stats().queued, 0);
        let submitter = delegator.submitter();
        let next = thread::spawn(move || submitter.submit(yields("next", "")));
        pause();
        busy.release();
        assert_eq!(next.join().unwrap().expect("room").wait().state(), JobState::Completed);
        assert!(delegator.submit(yields("and another", "")).is_ok());
    });
}

#[test]
fn a_queue_without_places_takes_a_job_only_when_a_worker_is_free() {
    watchdog(|| {
        let delegator = sized(3, 0);
        let busy = [occupy(&delegator), occupy(&delegator), occupy(&delegator)];
        assert!(matches!(delegator.try_submit(yields("no one free", "")), Err(SubmitError::Full(_))));
        let refused = delegator.submit_timeout(yields("no one free", ""), Duration::ZERO);
        assert!(matches!(refused, Err(SubmitError::Timeout(_))));
        let deadline = Instant::now() + BRIEF;
        let refused = delegator.submit_deadline(yields("no one free", ""), deadline);
        assert!(matches!(refused, Err(SubmitError::Timeout(_))));
        assert!(Instant::now() >= deadline);
        assert_eq!((delegator.stats().queued, delegator.stats().running), (0, 3));

        busy[1].release();
        let mut taken = None;
        eventually("the free worker takes a job", || {
            taken = delegator.try_submit(yields("taken", "by hand")).ok();
            taken.is_some()
        });
        assert_eq!(taken.unwrap().wait().payload(), Some(&b"by hand"[..]));
    });
}

#[test]
fn a_queue_without_places_lets_a_submit_wait_for_a_worker() {
    watchdog(|| {
        for form in WAITING {
            let delegator = sized(1, 0);
            let busy = occupy(&delegator);
            let submitter = delegator.submitter();
            let blocked = thread::spawn(move || submitter.enter(form, yields("handed over", "")));
            pause();
            assert!(!blocked.is_finished(), "{form:?}");
            assert_eq!(delegator.stats().queued, 0);
            busy.release();
            let record = blocked.join().unwrap().expect("a worker became free").wait();
            assert_eq!((record.state(), record.worker()), (JobState::Completed, Some(0)));
        }
    });
}

#[test]
fn a_queue_without_places_never_promises_one_worker_twice() {
    watchdog(|| {
        let delegator = sized(2, 0);
        for _ in 0..100 {
            let (started, release) = (Counter::new(), Gate::new());
            let job = || {
                let (started, release) = (started.clone(), release.clone());
                Job::new("holder", move |_| {
                    started.add();
                    release.wait();
                    Ok(Vec::new())
                })
            };
            // Whatever is accepted here needs a worker to itself, for none of them ends before the gate opens.
            let mut accepted = Vec::new();
            while accepted.len() < 2 {
                accepted.extend(delegator.try_submit(job()));
                thread::yield_now();
            }
            assert!(delegator.try_submit(job()).is_err());
            started.wait_for(2);
            release.open();
            assert!(accepted.iter().all(|handle| handle.wait().state() == JobState::Completed));
        }
    });
}

#[test]
fn a_queue_without_places_gets_back_the_worker_that_was_meant_for_a_cancelled_job() {
    watchdog(|| {
        let delegator = sized(2, 0);
        for n in 0..300 {
            let (ctx, canceller) = Context::background().with_cancel();
            let handle = delegator.submit(yields("cancelled", "").with_context(&ctx)).expect("a worker");
            if n % 2 == 0 {
                handle.cancel();
            } else {
                canceller.cancel();
            }
            assert!(handle.wait().state().is_finished());
        }
        let busy = [occupy(&delegator), occupy(&delegator)];
        assert!(delegator.try_submit(yields("one too many", "")).is_err());
        drop(busy);
    });
}

#[test]
fn a_queue_without_places_serves_many_submitters() {
    watchdog(|| {
        let delegator = sized(2, 0);
        let ran = Arc::new(AtomicUsize::new(0));
        thread::scope(|scope| {
            for worker in 0..4 {
                let (submitter, ran) = (delegator.submitter(), &ran);
                scope.spawn(move || {
                    for n in 0..200 {
                        let ran = Arc::clone(ran);
                        let job = Job::new("handed over", move |_| {
                            ran.fetch_add(1, Ordering::Relaxed);
                            Ok(Vec::new())
                        });
                        let handle =
                            submitter.enter(WAITING[(worker + n) % WAITING.len()], job).expect("a worker");
                        if n % 3 == 0 {
                            assert_eq!(handle.wait().state(), JobState::Completed);
                        }
                    }
                });
            }
        });
        delegator.wait_idle();
        assert_eq!(ran.load(Ordering::Relaxed), 800);
        assert_eq!(delegator.stats().completed, 800);
    });
}

#[test]
fn a_submit_that_waits_for_a_worker_ends_with_its_context_or_the_delegator() {
    watchdog(|| {
        for form in WAITING {
            let delegator = Arc::new(sized(1, 0));
            let busy = occupy(&delegator);
            let (ctx, canceller) = Context::background().with_cancel();
            let [given_up, turned_away] =
                [yields("given up", "").with_context(&ctx), yields("turned away", "")].map(|job| {
                    let submitter = delegator.submitter();
                    thread::spawn(move || submitter.enter(form, job))
                });
            let late =
                delegator.enter(form, yields("late", "").with_timeout(BRIEF)).expect("ended by its deadline");
            assert_eq!(late.state(), JobState::TimedOut);
            pause();
            canceller.cancel();
            assert_eq!(given_up.join().unwrap().expect("ended").state(), JobState::Cancelled);
            assert!(!turned_away.is_finished());
            let closing = thread::spawn({
                let delegator = Arc::clone(&delegator);
                move || delegator.shutdown(Shutdown::drain())
            });
            assert!(matches!(turned_away.join().unwrap(), Err(SubmitError::ShutDown(_))));
            busy.release();
            assert_eq!(closing.join().unwrap().completed, 1);
            assert_balanced(&delegator.stats());
        }
    });
}

#[test]
fn jobs_that_were_accepted_run_though_the_submitter_goes_away() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let (started, release) = (Gate::new(), Gate::new());
        release.open();
        let submitter = delegator.submitter();
        let handle = submitter.submit(gated("orphan", &started, &release)).expect("room");
        drop(submitter);
        busy.release();
        started.wait();
        assert_eq!(handle.wait().state(), JobState::Completed);
    });
}
