//! What a handle tells, and every way to wait for one.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    BRIEF, Counter, DropFlag, FOREVER, Gate, delegator, fails, fired, gated, occupy, panics, wait_fired,
    watchdog, yields,
};
use crossbeam_channel::{Select, select, unbounded};
use pool::{fill, keeps, obedient, pause, sized};
use workpath::{Context, Error, Job, JobHandle, JobRecord, JobState, Shutdown};

/// An error with a type of its own.
#[derive(Debug)]
struct Broken(u32);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken {}", self.0)
    }
}

impl std::error::Error for Broken {}

/// What must be equal in two records of one job.
fn gist(record: &JobRecord) -> impl PartialEq + fmt::Debug + use<> {
    let error = record.error().map(ToString::to_string);
    let payload = record.payload().map(|bytes| (bytes.as_ptr() as usize, bytes.to_vec()));
    let times = (record.created_at(), record.started_at(), record.completed_at());
    let spans = (record.queue_time(), record.run_time(), record.round_trip_time());
    (record.id(), record.name().to_string(), record.state(), error, payload, times, spans, record.worker())
}

#[test]
fn a_result_can_be_read_as_often_as_one_likes() {
    watchdog(|| {
        let delegator = delegator(1);
        for job in [yields("good", "bytes"), fails("bad", "no luck"), panics("ugly", "ouch")] {
            let handle = delegator.submit(job).expect("room");
            let first = handle.wait();
            for again in [
                Some(handle.wait()),
                handle.try_wait(),
                handle.wait_timeout(Duration::ZERO),
                handle.wait_deadline(Instant::now()),
                handle.clone().try_wait(),
                delegator.registry().get(handle.id()),
            ] {
                // The address too: waiting does not copy the payload.
                assert_eq!(again.as_ref().map(gist), Some(gist(&first)));
            }
        }
    });
}

#[test]
fn the_state_goes_from_queued_over_running_to_its_end() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let (started, release) = (Gate::new(), Gate::new());
        let handle = delegator.submit(gated("watched", &started, &release)).expect("room");
        assert_eq!((handle.state(), handle.is_finished()), (JobState::Queued, false));
        assert!(handle.try_wait().is_none());
        busy.release();
        started.wait();
        assert_eq!((handle.state(), handle.is_finished()), (JobState::Running, false));
        assert!(handle.try_wait().is_none());
        release.open();
        assert_eq!(handle.wait().state(), JobState::Completed);
        assert_eq!((handle.state(), handle.is_finished()), (JobState::Completed, true));
        assert!(handle.try_wait().is_some());
    });
}

#[test]
fn a_finished_job_stays_as_it_is() {
    watchdog(|| {
        let delegator = delegator(1);
        let mut ended = Vec::new();
        for job in [yields("good", "bytes"), fails("bad", "no luck"), panics("ugly", "ouch")] {
            let (ctx, canceller) = Context::background().with_cancel();
            let deadline = Instant::now() + Duration::from_secs(1);
            let handle = delegator.submit(job.with_context(&ctx).with_deadline(deadline)).expect("room");
            let before = handle.wait();
            assert!(!handle.cancel());
            assert!(!handle.cancel_with("too late"));
            canceller.cancel_with("too late");
            assert_eq!(gist(&handle.wait()), gist(&before));
            ended.push((handle, before, deadline));
        }
        delegator.shutdown(Shutdown::cancel());
        for (handle, before, deadline) in ended {
            thread::sleep(deadline.saturating_duration_since(Instant::now()));
            assert_eq!(handle.state(), before.state());
            assert_eq!(gist(&handle.wait()), gist(&before));
        }
    });
}

#[test]
fn every_kind_of_waiter_wakes_up_with_the_result() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let handle = delegator.submit(yields("awaited", "news")).expect("room");
        let waits: [fn(JobHandle) -> Option<JobRecord>; 6] = [
            |handle| Some(handle.wait()),
            |handle| handle.wait_timeout(FOREVER),
            |handle| handle.wait_timeout(Duration::MAX),
            |handle| handle.wait_deadline(Instant::now() + FOREVER),
            |handle| {
                wait_fired(&handle.done());
                handle.try_wait()
            },
            |handle| {
                let id = handle.id();
                let bytes = handle.clone().join().expect("completed");
                assert_eq!(bytes, b"news");
                handle.try_wait().filter(|record| record.id() == id)
            },
        ];
        let waiters = waits.map(|wait| {
            let handle = handle.clone();
            thread::spawn(move || wait(handle))
        });
        pause();
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        busy.release();
        for waiter in waiters {
            let record = waiter.join().unwrap().expect("the record");
            assert_eq!((record.state(), record.payload()), (JobState::Completed, Some(&b"news"[..])));
        }
    });
}

#[test]
fn many_waiters_of_one_job_all_wake_up() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let (started, release, woken) = (Gate::new(), Gate::new(), Counter::new());
        let handle = delegator.submit(gated("popular", &started, &release)).expect("room");
        let waiters: Vec<_> = (0..40)
            .map(|_| {
                let (handle, woken) = (handle.clone(), woken.clone());
                thread::spawn(move || {
                    let record = handle.wait();
                    woken.add();
                    record.state()
                })
            })
            .collect();
        started.wait();
        pause();
        assert_eq!(woken.get(), 0);
        release.open();
        assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap() == JobState::Completed));
    });
}

#[test]
fn a_timed_wait_gives_up_in_time_and_not_before() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let queued = fill(&delegator, 1).remove(0);
        for handle in [&queued, &busy.handle] {
            let limit = Duration::from_millis(30);
            let start = Instant::now();
            assert!(handle.wait_timeout(limit).is_none());
            assert!(start.elapsed() >= limit);
            let deadline = Instant::now() + limit;
            assert!(handle.wait_deadline(deadline).is_none());
            assert!(Instant::now() >= deadline);
            assert!(handle.wait_timeout(Duration::ZERO).is_none());
            assert!(handle.wait_deadline(Instant::now()).is_none());
        }
        // Giving up changed nothing.
        busy.release();
        assert_eq!(queued.wait().state(), JobState::Completed);
    });
}

#[test]
fn a_timed_wait_of_a_finished_job_needs_no_time() {
    watchdog(|| {
        let delegator = delegator(1);
        let start = Instant::now();
        let handle = delegator.submit(yields("over", "")).expect("room");
        handle.wait();
        assert!(handle.wait_timeout(Duration::ZERO).is_some());
        assert!(handle.wait_deadline(start).is_some());
        assert!(handle.wait_timeout(Duration::MAX).is_some());
        assert!(handle.wait_deadline(Instant::now() + FOREVER).is_some());
    });
}

#[test]
fn waits_that_give_up_over_and_over_miss_nothing() {
    watchdog(|| {
        let delegator = sized(1, 8);
        for _ in 0..50 {
            let busy = occupy(&delegator);
            let handle = delegator.submit(yields("awaited", "")).expect("room");
            let waiter = thread::spawn({
                let handle = handle.clone();
                move || {
                    while handle.wait_timeout(Duration::from_micros(50)).is_none() {}
                    handle.state()
                }
            });
            busy.release();
            assert_eq!(waiter.join().unwrap(), JobState::Completed);
        }
    });
}

#[test]
fn join_gives_the_bytes_or_the_reason() {
    watchdog(|| {
        let delegator = delegator(1);
        let done = delegator.submit(yields("good", "bytes")).expect("room").join();
        assert_eq!(done.expect("completed"), b"bytes");

        let job = Job::new("bad", |_| Err(Error::new(Broken(7))));
        let error = delegator.submit(job).expect("room").join().expect_err("failed");
        let cause = error.get_ref().and_then(|e| e.downcast_ref::<Broken>()).expect("the very error");
        assert_eq!(cause.0, 7);

        let error = delegator.submit(panics("ugly", "ouch")).expect("room").join().expect_err("panicked");
        assert!(error.is_panic());
    });
}

#[test]
fn join_does_not_take_the_result_from_the_others() {
    watchdog(|| {
        let delegator = delegator(1);
        let handle = delegator.submit(yields("shared", "for all")).expect("room");
        let (second, third, record) = (handle.clone(), handle.clone(), handle.wait());
        assert_eq!(handle.join().unwrap(), b"for all");
        assert_eq!(second.join().unwrap(), b"for all");
        assert_eq!(third.wait().payload(), Some(&b"for all"[..]));
        assert_eq!(record.payload(), Some(&b"for all"[..]));
        assert_eq!(delegator.registry().get(record.id()).unwrap().payload(), Some(&b"for all"[..]));
    });
}

#[test]
fn the_done_channel_says_nothing_before_the_end() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let queued = fill(&delegator, 1).remove(0);
        let (running, waiting) = (busy.handle.done(), queued.done());
        pause();
        assert!(!fired(&running) && !fired(&waiting));
        busy.release();
        wait_fired(&running);
        wait_fired(&waiting);
        assert!(busy.handle.is_finished() && queued.is_finished());
        // Asked for after the end, it has fired from the start.
        assert!(fired(&queued.done()));
    });
}

#[test]
fn the_done_channel_works_in_select() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let handle = delegator.submit(yields("selected", "")).expect("room");
        let (sender, messages) = unbounded();
        let done = handle.done();
        sender.send("still busy").unwrap();
        select! {
            recv(messages) -> message => assert_eq!(message, Ok("still busy")),
            recv(done) -> _ => panic!("the job cannot be finished"),
        }
        busy.release();
        select! {
            recv(messages) -> message => panic!("nobody sent {message:?}"),
            recv(done) -> end => assert!(end.is_err()),
        }
        assert_eq!(handle.state(), JobState::Completed);
    });
}

#[test]
fn the_first_of_several_jobs_can_be_told() {
    watchdog(|| {
        let delegator = sized(3, 8);
        let gates = [Gate::new(), Gate::new(), Gate::new()];
        let handles: Vec<_> = gates
            .iter()
            .map(|release| delegator.submit(gated("racer", &Gate::new(), release)).expect("room"))
            .collect();
        for winner in [1, 2, 0] {
            let channels: Vec<_> = handles.iter().map(JobHandle::done).collect();
            let mut select = Select::new();
            let open: Vec<_> = (0..3).filter(|n| !handles[*n].is_finished()).collect();
            for n in &open {
                select.recv(&channels[*n]);
            }
            gates[winner].open();
            let first = select.ready();
            assert_eq!(open[first], winner);
            assert_eq!(handles[winner].wait().state(), JobState::Completed);
        }
    });
}

#[test]
fn a_done_channel_outlives_its_handle_and_the_delegator() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let queued = fill(&delegator, 1).remove(0);
        let (done, id) = (queued.done(), queued.id());
        drop(queued);
        pause();
        assert!(!fired(&done), "the handle was only a view of the job");
        busy.release();
        wait_fired(&done);
        assert!(delegator.registry().get(id).is_some());
        let later = delegator.submit(yields("last", "")).expect("room").done();
        drop(delegator);
        wait_fired(&later);
        wait_fired(&done);
    });
}

#[test]
fn a_handle_outlives_its_delegator() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let handle = delegator.submit(yields("kept", "safe")).expect("room");
        busy.release();
        drop(delegator);
        assert_eq!(handle.state(), JobState::Completed);
        assert_eq!(handle.wait().payload(), Some(&b"safe"[..]));
        assert!(!handle.cancel());
        assert_eq!(handle.join().unwrap(), b"safe");
    });
}

#[test]
fn a_job_runs_though_nobody_kept_its_handle() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let (flag, dropped) = DropFlag::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let job = Job::new("abandoned", {
            let runs = Arc::clone(&runs);
            move |_| {
                let _owned = &flag;
                runs.fetch_add(1, Ordering::SeqCst);
                Ok(Vec::new())
            }
        });
        drop(delegator.submit(job).expect("room"));
        assert!(!dropped.is_open());
        busy.release();
        dropped.wait();
        delegator.wait_idle();
        assert_eq!((runs.load(Ordering::SeqCst), Arc::strong_count(&runs)), (1, 1));
        assert_eq!(delegator.stats().completed, 2);
    });
}

#[test]
fn a_handle_keeps_nothing_of_a_finished_operation() {
    watchdog(|| {
        let delegator = delegator(1);
        let shared = Arc::new(());
        let handles: Vec<_> =
            (0..4).map(|_| delegator.submit(keeps("owner", Arc::clone(&shared))).expect("room")).collect();
        for handle in &handles {
            handle.wait();
        }
        assert_eq!(Arc::strong_count(&shared), 1);
        // The worker, too, has let go of the result when everyone else has.
        let (flag, dropped) = DropFlag::new();
        let failure = Arc::new(std::sync::Mutex::new(Some(flag)));
        let job = Job::new("result", move |_| {
            struct Holds(#[expect(dead_code, reason = "owned for its drop")] DropFlag);
            impl fmt::Debug for Holds {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("Holds")
                }
            }
            impl fmt::Display for Holds {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("holds")
                }
            }
            impl std::error::Error for Holds {}
            Err(Error::new(Holds(failure.lock().unwrap().take().expect("runs once"))))
        });
        let handle = delegator.submit(job).expect("room");
        assert_eq!(handle.wait().state(), JobState::Failed);
        assert!(!dropped.is_open());
        assert!(delegator.registry().remove(handle.id()).is_some());
        assert!(!dropped.is_open(), "a handle owns its record");
        drop(handle);
        dropped.wait();
    });
}

#[test]
fn the_debug_text_names_job_and_state_and_never_blocks() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let queued = fill(&delegator, 1).remove(0);
        let text = |handle: &JobHandle| format!("{handle:?}").to_lowercase();
        assert!(text(&queued).contains("queued"), "{}", text(&queued));
        assert!(text(&queued).contains("filler") && text(&queued).contains(&queued.id().to_string()));
        assert!(text(&busy.handle).contains("running"), "{}", text(&busy.handle));
        assert!(queued.cancel());
        assert!(text(&queued).contains("cancelled"), "{}", text(&queued));
        busy.release();
        busy.handle.wait();
        assert!(text(&busy.handle).contains("completed"), "{}", text(&busy.handle));
        for (job, state) in [(fails("bad", "no"), "failed"), (panics("ugly", "no"), "panicked")] {
            let handle = delegator.submit(job).expect("room");
            handle.wait();
            assert!(text(&handle).contains(state), "{}", text(&handle));
        }
        let late = delegator.submit(yields("late", "").with_timeout(Duration::ZERO)).expect("accepted");
        assert!(text(&late).contains("timedout") || text(&late).contains("timed out"), "{}", text(&late));
    });
}

#[test]
fn of_several_jobs_those_that_miss_the_time_limit_can_be_stopped() {
    watchdog(|| {
        let delegator = sized(3, 8);
        let started = Gate::new();
        let handles = [yields("quick", "1"), obedient("slow", &started), yields("quick", "3")]
            .map(|job| delegator.submit(job).expect("room"));
        started.wait();
        handles[0].wait();
        handles[2].wait();
        let deadline = Instant::now() + BRIEF;
        for handle in &handles {
            if handle.wait_deadline(deadline).is_none() {
                assert!(handle.cancel());
            }
        }
        let states = handles.map(|handle| handle.wait().state());
        assert_eq!(states, [JobState::Completed, JobState::Cancelled, JobState::Completed]);
    });
}
