//! The end of a delegator: drain, cancel, time limits, what the report says, and who may ask for it.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use common::{
    BRIEF, Counter, DropFlag, FOREVER, Gate, delegator, eventually, fails, fired, occupy, panics, watchdog,
    yields,
};
use pool::{
    Door, FORMS, assert_balanced, assert_threads_gone, counts, covered, fill, keeps, obedient, own_name,
    pause, sized,
};
use workpath::{Context, Delegator, Job, JobHandle, JobState, Shutdown, ShutdownReport, SubmitError};

/// Starts a shutdown on another thread.
fn close(delegator: &Arc<Delegator>, shutdown: Shutdown) -> thread::JoinHandle<ShutdownReport> {
    let delegator = Arc::clone(delegator);
    thread::spawn(move || delegator.shutdown(shutdown))
}

/// Waits until the delegator refuses jobs. Its queue must be full, or some of these jobs get in.
#[track_caller]
fn wait_until_closed(delegator: &Delegator) {
    eventually("the delegator refuses jobs", || {
        matches!(delegator.try_submit(yields("probe", "")), Err(SubmitError::ShutDown(_)))
    });
}

fn states(handles: &[JobHandle]) -> Vec<JobState> {
    handles.iter().map(JobHandle::state).collect()
}

#[test]
fn a_drain_runs_all_that_was_accepted() {
    watchdog(|| {
        let delegator = Arc::new(sized(2, 50));
        let (first, second) = (occupy(&delegator), occupy(&delegator));
        let queued = fill(&delegator, 50);
        let closing = close(&delegator, Shutdown::drain());
        wait_until_closed(&delegator);
        assert!(!closing.is_finished());
        first.release();
        second.release();
        let report = closing.join().unwrap();
        assert_eq!((report.completed, covered(&report)), (52, 52));
        assert!(states(&queued).iter().all(|state| *state == JobState::Completed));
        assert_eq!(delegator.stats().completed, 52);
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn a_cancel_hands_back_what_has_not_started_and_stops_what_runs() {
    watchdog(|| {
        let delegator = sized(2, 8);
        let started = [Gate::new(), Gate::new()];
        let running: Vec<_> = started
            .iter()
            .map(|started| delegator.submit(obedient("running", started)).expect("room"))
            .collect();
        started.iter().for_each(Gate::wait);
        let queued = fill(&delegator, 3);
        let report = delegator.shutdown(Shutdown::cancel());
        assert_eq!((report.cancelled, report.completed, report.failed), (2, 0, 0));
        let ids: Vec<_> = report.unstarted.iter().map(Job::id).collect();
        assert_eq!(ids, queued.iter().map(JobHandle::id).collect::<Vec<_>>(), "in the order of submission");
        assert!(report.stuck.is_empty());
        assert!(states(&running).iter().chain(&states(&queued)).all(|state| *state == JobState::Cancelled));
        for handle in &queued {
            let record = handle.try_wait().expect("it has ended");
            assert_eq!((record.started_at(), record.worker()), (None, None));
            assert!(record.error().is_some_and(|error| error.is_cancelled()));
            assert!(fired(&handle.done()));
        }
        assert_eq!(delegator.stats().cancelled, 5);
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn a_cancel_waits_for_what_runs_and_takes_its_word() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 8));
        let busy = occupy(&delegator);
        let queued = fill(&delegator, 2);
        let closing = close(&delegator, Shutdown::cancel());
        // What has not started need not wait for what runs.
        assert!(queued.iter().all(|handle| handle.wait().state() == JobState::Cancelled));
        pause();
        assert!(!closing.is_finished(), "it must wait for the job that runs");
        busy.release();
        let report = closing.join().unwrap();
        assert_eq!((report.completed, report.unstarted.len(), covered(&report)), (1, 2, 3));
        assert_eq!(busy.handle.state(), JobState::Completed);
    });
}

#[test]
fn an_unstarted_job_runs_elsewhere_with_the_same_id() {
    watchdog(|| {
        let (first, second) = (Arc::new(sized(1, 8)), sized(1, 8));
        let busy = occupy(&first);
        let (flag, dropped) = DropFlag::new();
        let ctx = Context::background().with_value("key", 5_u8).with_timeout(FOREVER);
        let job = Job::new("moves", move |ctx| {
            let _owned = &flag;
            ctx.check()?;
            Ok(vec![*ctx.value::<u8>("key").ok_or("no value")?])
        });
        let job = job.with_context(&ctx);
        let (id, created) = (job.id(), job.created_at());
        let old = first.submit(job).expect("room");
        let closing = close(&first, Shutdown::cancel());
        assert_eq!(old.wait().state(), JobState::Cancelled);
        busy.release();
        let mut report = closing.join().unwrap();
        let job = report.unstarted.pop().expect("the job that moves");
        assert_eq!((job.id(), job.created_at()), (id, created));
        assert_eq!(job.name(), "moves");
        assert!(!job.context().is_done());
        assert!(!dropped.is_open());

        let new = second.submit(job).expect("room");
        assert_eq!(new.id(), id);
        assert!(!old.cancel(), "the old handle has nothing to do with it any more");
        let record = new.wait();
        assert_eq!((record.state(), record.payload()), (JobState::Completed, Some(&[5_u8][..])));
        assert!(dropped.is_open());
        assert_eq!(old.wait().state(), JobState::Cancelled);
        assert!(second.registry().get(id).is_some_and(|record| record.state() == JobState::Completed));
        assert!(first.registry().get(id).is_some_and(|record| record.state() == JobState::Cancelled));
    });
}

#[test]
fn an_unstarted_job_leaves_the_time_limit_of_its_delegator_behind() {
    watchdog(|| {
        let limit = Duration::from_secs(1_000);
        let delegator =
            Delegator::builder().workers(1).queue_capacity(8).default_timeout(limit).build().unwrap();
        let busy = occupy(&delegator);
        let own = Instant::now() + FOREVER;
        let _handles = [yields("without", ""), yields("with", "").with_deadline(own)]
            .map(|job| delegator.submit(job).expect("room"));
        let report = delegator.shutdown(Shutdown::cancel().within(Duration::ZERO));
        busy.release();
        let deadlines: Vec<_> = report.unstarted.iter().map(|job| job.context().deadline()).collect();
        assert_eq!(deadlines, [None, Some(own)]);
    });
}

#[test]
fn only_jobs_whose_contexts_are_not_done_are_handed_back() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let (ctx, canceller) = Context::background().with_cancel();
        let deadline = Instant::now() + BRIEF;
        let jobs = [
            yields("late", "").with_deadline(deadline),
            yields("stopped", "").with_context(&ctx),
            yields("unstarted", ""),
        ];
        let [late, stopped, unstarted] = jobs.map(|job| delegator.submit(job).expect("room"));
        canceller.cancel_with("before the shutdown");
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
        // Nobody has looked at them yet.
        let report = delegator.shutdown(Shutdown::cancel().within(Duration::ZERO));
        busy.release();
        assert_eq!(report.unstarted.iter().map(Job::id).collect::<Vec<_>>(), [unstarted.id()]);
        assert_eq!((report.failed, report.cancelled, covered(&report)), (1, 1, 4), "{report:?}");
        assert_eq!(late.state(), JobState::TimedOut);
        let record = stopped.wait();
        assert_eq!(record.state(), JobState::Cancelled);
        let cause = record.error().and_then(|error| error.get_ref()).map(ToString::to_string);
        assert_eq!(cause.as_deref(), Some("before the shutdown"));
    });
}

#[test]
fn an_unstarted_job_can_move_again_and_again() {
    watchdog(|| {
        let mut job = yields("nomad", "home");
        let id = job.id();
        for _ in 0..5 {
            let delegator = sized(1, 1);
            let busy = occupy(&delegator);
            let handle = delegator.submit(job).expect("room");
            let mut report = delegator.shutdown(Shutdown::cancel().within(Duration::ZERO));
            busy.release();
            assert_eq!(handle.state(), JobState::Cancelled);
            job = report.unstarted.pop().expect("it comes back");
            assert_eq!(job.id(), id);
        }
        assert_eq!(delegator(1).submit(job).expect("room").join().unwrap(), b"home");
    });
}

#[test]
fn an_unstarted_job_is_dropped_with_the_report() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let (flag, dropped) = DropFlag::new();
        let _handle = delegator.submit(keeps("left behind", flag)).expect("room");
        let report = delegator.shutdown(Shutdown::cancel().within(Duration::ZERO));
        assert!(!dropped.is_open());
        drop(report);
        assert!(dropped.is_open());
        busy.release();
    });
}

#[test]
fn an_operation_that_never_returns_is_reported_and_left_behind() {
    watchdog(|| {
        for (shutdown, limit) in [
            // Longer than the grace.
            (Shutdown::drain().within(Duration::from_millis(300)), 300),
            (Shutdown::cancel().within(Duration::from_millis(300)), 300),
            (Shutdown::drain().within(Duration::ZERO), 0),
            (Shutdown::cancel().within(Duration::ZERO), 0),
        ] {
            let delegator =
                Delegator::builder().workers(2).queue_capacity(8).thread_name("numb").build().unwrap();
            let busy = occupy(&delegator);
            let other = Gate::new();
            let polite = delegator.submit(obedient("polite", &other)).expect("room");
            other.wait();
            let queued = fill(&delegator, 2);
            let start = Instant::now();
            let report = delegator.shutdown(shutdown);
            assert!(start.elapsed() >= Duration::from_millis(limit));
            // On a busy machine the polite one may not make it in time.
            assert_eq!((report.cancelled + report.stuck.len(), report.unstarted.len()), (2, 2), "{report:?}");
            let stuck = report.stuck.iter().find(|stuck| stuck.running == Some(busy.handle.id()));
            let stuck = stuck.expect("the one that does not listen");
            assert_eq!(stuck.thread_name, format!("numb-{}", stuck.index));
            assert_eq!(covered(&report), 4);
            assert_eq!(polite.wait().state(), JobState::Cancelled);
            assert!(states(&queued).iter().all(|state| *state == JobState::Cancelled));

            // Not forgotten: it still ends, once.
            assert_eq!(busy.handle.state(), JobState::Running);
            assert_eq!(delegator.stats().running, 1);
            assert_balanced(&delegator.stats());
            assert!(!delegator.wait_idle_timeout(Duration::ZERO));
            busy.release();
            assert_eq!(busy.handle.wait().state(), JobState::Completed);
            delegator.wait_idle();
            assert_balanced(&delegator.stats());
            assert_eq!(delegator.stats().completed, 1);
            assert!(delegator.registry().get(busy.handle.id()).is_some());
        }
    });
}

#[test]
fn a_stuck_job_was_asked_to_stop() {
    watchdog(|| {
        for shutdown in [Shutdown::drain().within(BRIEF), Shutdown::cancel().within(BRIEF)] {
            let delegator = sized(1, 8);
            let (started, release) = (Gate::new(), Gate::new());
            let job = Job::new("slow to listen", {
                let (started, release) = (started.clone(), release.clone());
                move |ctx| {
                    started.open();
                    release.wait();
                    ctx.check()?;
                    Ok(Vec::new())
                }
            });
            let handle = delegator.submit(job).expect("room");
            started.wait();
            let report = delegator.shutdown(shutdown);
            assert_eq!(report.stuck.len(), 1);
            release.open();
            assert_eq!(handle.wait().state(), JobState::Cancelled);
        }
    });
}

#[test]
fn the_threads_of_stuck_jobs_end_with_their_jobs() {
    watchdog(|| {
        let name = own_name();
        let delegator =
            Delegator::builder().workers(3).queue_capacity(8).thread_name(name.as_str()).build().unwrap();
        let busy = occupy(&delegator);
        let report = delegator.shutdown(Shutdown::drain().within(Duration::ZERO));
        assert_eq!(report.stuck.len(), 1);
        // The second time nobody is left to report.
        assert_eq!(covered(&delegator.shutdown(Shutdown::cancel().within(Duration::ZERO))), 0);
        busy.release();
        busy.handle.wait();
        drop(delegator);
        assert_threads_gone(&name);
    });
}

#[test]
fn a_drain_with_a_limit_becomes_a_cancel_when_the_limit_is_reached() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let started = Gate::new();
        let running = delegator.submit(obedient("obedient", &started)).expect("room");
        started.wait();
        let queued = fill(&delegator, 3);
        let limit = Duration::from_millis(50);
        let start = Instant::now();
        let report = delegator.shutdown(Shutdown::drain().within(limit));
        assert!(start.elapsed() >= limit);
        assert_eq!((report.unstarted.len(), covered(&report)), (3, 4));
        assert_eq!(report.cancelled + report.stuck.len(), 1);
        assert_eq!(running.wait().state(), JobState::Cancelled);
        assert!(states(&queued).iter().all(|state| *state == JobState::Cancelled));
    });
}

#[test]
fn a_job_that_listens_gets_a_moment_to_stop() {
    watchdog(|| {
        // A moment may be too short on a busy machine, but not always.
        let stopped = (0..50).any(|round| {
            let delegator = sized(1, 8);
            let started = Gate::new();
            let handle = delegator.submit(obedient("obedient", &started)).expect("room");
            started.wait();
            let shutdown = if round % 2 == 0 { Shutdown::cancel() } else { Shutdown::drain() };
            let report = delegator.shutdown(shutdown.within(Duration::ZERO));
            assert_eq!(report.cancelled + report.stuck.len(), 1, "{report:?}");
            assert_eq!(handle.wait().state(), JobState::Cancelled);
            round > 0 && report.stuck.is_empty()
        });
        assert!(stopped, "there is no grace");
    });
}

#[test]
fn a_limit_that_is_not_needed_is_not_waited_for() {
    watchdog(|| {
        for shutdown in [
            Shutdown::drain().within(FOREVER),
            Shutdown::cancel().within(FOREVER),
            Shutdown::drain().within(Duration::MAX),
            Shutdown::cancel().within(Duration::MAX),
        ] {
            let delegator = Arc::new(sized(1, 8));
            let busy = occupy(&delegator);
            let closing = close(&delegator, shutdown);
            pause();
            assert!(!closing.is_finished());
            busy.release();
            let report = closing.join().unwrap();
            assert_eq!((report.completed, covered(&report)), (1, 1));
        }
    });
}

#[test]
fn the_report_covers_what_was_queued_or_running_and_nothing_before() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 8));
        for job in [yields("before", ""), fails("before", "no"), panics("before", "no")] {
            delegator.submit(job).expect("room").wait();
        }
        let busy = occupy(&delegator);
        let (ctx, canceller) = Context::background().with_cancel();
        let deadline = Instant::now() + Duration::from_millis(400);
        let late = Job::new("late", move |ctx| {
            ctx.sleep(common::PATIENCE)?;
            Ok(Vec::new())
        });
        let jobs = [
            yields("good", ""),
            fails("bad", "no"),
            panics("ugly", "no"),
            yields("stopped from above", "").with_context(&ctx),
            yields("stopped by hand", ""),
            Job::new("stopped", |_| Ok(Vec::new())).with_context(&ctx),
            yields("late in the queue", "").with_deadline(deadline),
            late.with_timeout(Duration::from_millis(600)),
        ];
        let handles = jobs.map(|job| delegator.submit(job).expect("room"));
        let closing = close(&delegator, Shutdown::drain());
        wait_until_closed(&delegator);
        let in_time = Instant::now() < deadline;
        canceller.cancel();
        assert!(handles[4].cancel());
        // Two of them are to miss their deadlines, one before it starts and one while it runs.
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
        busy.release();
        let report = closing.join().unwrap();
        use JobState::{Cancelled, Completed, Failed, Panicked, TimedOut};
        assert_eq!(
            states(&handles),
            [Completed, Failed, Panicked, Cancelled, Cancelled, Cancelled, TimedOut, TimedOut]
        );
        assert!(report.unstarted.is_empty() && report.stuck.is_empty());
        if in_time {
            assert_eq!((report.completed, report.failed, report.cancelled), (2, 4, 3));
            assert_eq!(covered(&report), 9);
        }
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn a_shutdown_of_an_idle_delegator_has_nothing_to_report() {
    watchdog(|| {
        for shutdown in [
            Shutdown::drain(),
            Shutdown::cancel(),
            Shutdown::drain().within(Duration::ZERO),
            Shutdown::cancel().within(Duration::ZERO),
            Shutdown::drain().within(Duration::MAX),
        ] {
            let name = own_name();
            let delegator = Delegator::builder().workers(22).thread_name(name.as_str()).build().unwrap();
            assert_eq!(covered(&delegator.shutdown(shutdown)), 0);
            assert_eq!(delegator.stats().submitted, 0);
            drop(delegator);
            assert_threads_gone(&name);
        }
    });
}

#[test]
fn the_threads_are_gone_after_a_shutdown() {
    watchdog(|| {
        for cancel in [false, true] {
            let name = own_name();
            let delegator =
                Delegator::builder().workers(4).queue_capacity(8).thread_name(name.as_str()).build().unwrap();
            for handle in fill(&delegator, 8) {
                handle.wait();
            }
            delegator.shutdown(if cancel { Shutdown::cancel() } else { Shutdown::drain() });
            assert_threads_gone(&name);
        }
    });
}

#[test]
fn every_worker_has_come_to_its_end_when_a_shutdown_returns() {
    /// Says when its thread ends, and takes its time.
    struct Last(Counter);

    impl Drop for Last {
        fn drop(&mut self) {
            pause();
            self.0.add();
        }
    }

    thread_local! {
        static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
    }

    watchdog(|| {
        for shutdown in [Some(Shutdown::drain()), Some(Shutdown::cancel()), None] {
            let delegator = sized(2, 8);
            let (ended, together) = (Counter::new(), Arc::new(Barrier::new(2)));
            for _ in 0..2 {
                let (ended, together) = (ended.clone(), Arc::clone(&together));
                let job = Job::new("leaves something", move |_| {
                    together.wait();
                    LAST.set(Some(Last(ended.clone())));
                    Ok(Vec::new())
                });
                drop(delegator.submit(job).expect("room"));
            }
            delegator.wait_idle();
            assert_eq!(ended.get(), 0);
            match shutdown {
                Some(shutdown) => drop(delegator.shutdown(shutdown)),
                None => drop(delegator),
            }
            assert_eq!(ended.get(), 2, "a thread outlives the shutdown");
        }
    });
}

#[test]
fn a_closed_delegator_still_answers() {
    watchdog(|| {
        let delegator = delegator(2);
        let handle = delegator.submit(yields("known", "bytes")).expect("room");
        delegator.shutdown(Shutdown::drain());
        assert_eq!(delegator.registry().get(handle.id()).unwrap().payload(), Some(&b"bytes"[..]));
        assert_eq!(delegator.stats().completed, 1);
        assert!(delegator.workers().iter().all(|worker| worker.running.is_none()));
        delegator.wait_idle();
        assert!(delegator.wait_idle_timeout(Duration::ZERO));
        let _text = format!("{delegator:?}");
        for form in FORMS {
            assert!(matches!(delegator.enter(form, yields("late", "")), Err(SubmitError::ShutDown(_))));
        }
        assert_eq!(delegator.stats().rejected, 4);
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn a_second_shutdown_reports_nothing_and_changes_nothing() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let handles = fill(&delegator, 5);
        let first = delegator.shutdown(Shutdown::drain());
        let expected = delegator.stats();
        assert!(first.completed <= 5);
        for shutdown in [Shutdown::drain(), Shutdown::cancel(), Shutdown::drain().within(Duration::ZERO)] {
            assert_eq!(covered(&delegator.shutdown(shutdown)), 0);
        }
        assert_eq!(delegator.stats().completed, expected.completed);
        assert!(states(&handles).iter().all(|state| *state == JobState::Completed));
    });
}

#[test]
fn of_two_shutdowns_at_once_one_reports_and_both_wait() {
    watchdog(|| {
        for _ in 0..30 {
            let delegator = Arc::new(sized(2, 8));
            let (first, second) = (occupy(&delegator), occupy(&delegator));
            let queued = fill(&delegator, 6);
            let closing: Vec<_> = (0..4).map(|_| close(&delegator, Shutdown::drain())).collect();
            first.release();
            second.release();
            let reports: Vec<_> = closing.into_iter().map(|closing| closing.join().unwrap()).collect();
            assert!(
                states(&queued).iter().all(|state| *state == JobState::Completed),
                "one of them did not wait"
            );
            let telling: Vec<_> = reports.iter().map(covered).filter(|count| *count > 0).collect();
            assert!(telling.len() <= 1, "{reports:?}");
            // The first shutdown may have come when some were done.
            assert!(telling.iter().all(|count| *count <= 8));
        }
    });
}

#[test]
fn a_second_shutdown_waits_until_the_jobs_of_the_first_have_ended() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 1));
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let first = close(&delegator, Shutdown::drain());
        wait_until_closed(&delegator);
        let second = close(&delegator, Shutdown::drain());
        pause();
        assert!(!first.is_finished() && !second.is_finished());
        busy.release();
        assert_eq!(covered(&first.join().unwrap()), 2);
        assert_eq!(covered(&second.join().unwrap()), 0);
    });
}

#[test]
fn a_later_cancel_hurries_an_earlier_drain() {
    watchdog(|| {
        for limited in [false, true] {
            let delegator = Arc::new(sized(1, 3));
            let started = Gate::new();
            let running = delegator.submit(obedient("obedient", &started)).expect("room");
            started.wait();
            let queued = fill(&delegator, 3);
            let drain = close(&delegator, Shutdown::drain());
            wait_until_closed(&delegator);
            let later = if limited { Shutdown::drain().within(BRIEF) } else { Shutdown::cancel() };
            let late = delegator.shutdown(later);
            assert_eq!(covered(&late), 0, "the first reports");
            let report = drain.join().unwrap();
            assert_eq!((report.cancelled, report.unstarted.len(), covered(&report)), (1, 3, 4), "{report:?}");
            assert_eq!(running.state(), JobState::Cancelled);
            assert!(states(&queued).iter().all(|state| *state == JobState::Cancelled));
        }
    });
}

#[test]
fn a_later_limit_is_kept_though_the_first_shutdown_has_none() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 1));
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let drain = close(&delegator, Shutdown::drain());
        wait_until_closed(&delegator);
        let start = Instant::now();
        let late = delegator.shutdown(Shutdown::cancel().within(BRIEF));
        assert!(start.elapsed() >= BRIEF);
        assert_eq!(covered(&late), 0);
        // The first still waits for the job that does not listen, unless it takes over the limit of the second.
        busy.release();
        let report = drain.join().unwrap();
        assert_eq!((report.unstarted.len(), covered(&report)), (1, 2), "{report:?}");
        assert_eq!(busy.handle.wait().state(), JobState::Completed);
    });
}

#[test]
fn a_limit_of_a_later_shutdown_does_not_spoil_the_account_of_the_first() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 1));
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let drain = close(&delegator, Shutdown::drain());
        wait_until_closed(&delegator);
        delegator.shutdown(Shutdown::cancel().within(Duration::ZERO));
        // Longer than any grace.
        thread::sleep(Duration::from_millis(300));
        let gave_up = drain.is_finished();
        if !gave_up {
            busy.release();
        }
        let report = drain.join().unwrap();
        assert_eq!((report.stuck.len(), report.unstarted.len()), (usize::from(gave_up), 1), "{report:?}");
        assert_eq!(covered(&report), 2, "{report:?}");
    });
}

#[test]
fn a_stuck_job_inside_another_leaves_no_job_out_of_the_account() {
    watchdog(|| {
        let delegator = sized(1, 4);
        let (started, release) = (Gate::new(), Gate::new());
        let parent = Job::new("parent", {
            let (submitter, started, release) = (delegator.submitter(), started.clone(), release.clone());
            move |_| submitter.submit(common::gated("child", &started, &release))?.join()
        });
        let parent = delegator.submit(parent).expect("room");
        started.wait();
        assert_eq!(delegator.stats().running, 2);
        let report = delegator.shutdown(Shutdown::cancel().within(Duration::ZERO));
        assert_eq!(covered(&report), 2, "{report:?}");
        assert!(report.stuck.iter().any(|stuck| stuck.running.is_some()));
        release.open();
        assert_eq!(parent.wait().state(), JobState::Completed);
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn a_job_inside_another_can_shut_down_their_delegator() {
    watchdog(|| {
        for shutdown in [Shutdown::drain(), Shutdown::cancel(), Shutdown::drain().within(Duration::ZERO)] {
            let delegator = Arc::new(sized(1, 4));
            let (queued, go) = (Gate::new(), Gate::new());
            let parent = Job::new("parent", {
                let (delegator, queued, go) = (Arc::clone(&delegator), queued.clone(), go.clone());
                move |_| {
                    queued.open();
                    go.wait();
                    let own = Arc::clone(&delegator);
                    let child = Job::new("child", move |_| {
                        let report = own.shutdown(shutdown);
                        assert!(report.stuck.is_empty(), "{report:?}");
                        Ok(vec![covered(&report) as u8])
                    });
                    delegator.submit(child)?.join()
                }
            });
            let handle = delegator.submit(parent).expect("room");
            queued.wait();
            let others = fill(&delegator, 2);
            go.open();
            assert_eq!(handle.join().expect("completed"), [2], "the two that were queued");
            assert!(others.iter().all(|other| other.wait().state().is_finished()));
            delegator.wait_idle();
            assert_balanced(&delegator.stats());
        }
    });
}

#[test]
fn the_thread_that_shuts_down_is_the_one_that_cancels() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 8));
        let (started, who) = (Gate::new(), Arc::new(Mutex::new(None::<ThreadId>)));
        let job = Job::new("listens", {
            let (started, who) = (started.clone(), Arc::clone(&who));
            move |ctx| {
                let who = Arc::clone(&who);
                let _registered = ctx.on_done(move || *who.lock().unwrap() = Some(thread::current().id()));
                started.open();
                ctx.sleep(common::PATIENCE)?;
                Ok(Vec::new())
            }
        });
        let _handle = delegator.submit(job).expect("room");
        started.wait();
        let closing = thread::spawn({
            let delegator = Arc::clone(&delegator);
            move || (thread::current().id(), delegator.shutdown(Shutdown::cancel()).cancelled)
        });
        let (closer, cancelled) = closing.join().unwrap();
        assert_eq!(cancelled, 1);
        assert_eq!(*who.lock().unwrap(), Some(closer));
    });
}

#[test]
fn a_job_can_shut_down_its_own_delegator() {
    watchdog(|| {
        for (drain, within) in
            [(true, None), (false, None), (true, Some(Duration::ZERO)), (false, Some(FOREVER))]
        {
            for (workers, capacity, queued) in [(1, 8, 3), (2, 8, 3), (1, 0, 0), (1, 1, 1)] {
                let delegator = Arc::new(sized(workers, capacity));
                let (sender, reports) = crossbeam_channel::bounded(1);
                let (started, go) = (Gate::new(), Gate::new());
                let job = Job::new("the end", {
                    let (delegator, started, go) = (Arc::clone(&delegator), started.clone(), go.clone());
                    move |_| {
                        started.open();
                        go.wait();
                        let mut shutdown = if drain { Shutdown::drain() } else { Shutdown::cancel() };
                        if let Some(limit) = within {
                            shutdown = shutdown.within(limit);
                        }
                        sender.send(delegator.shutdown(shutdown)).map_err(|error| error.to_string())?;
                        Ok(b"survived".to_vec())
                    }
                });
                let handle = delegator.submit(job).expect("room");
                started.wait();
                let others = if workers == 1 { fill(&delegator, queued) } else { Vec::new() };
                go.open();
                let report = reports.recv_timeout(common::PATIENCE).expect("it must return");
                assert!(report.stuck.is_empty(), "it does not call itself stuck: {report:?}");
                assert_eq!(covered(&report), others.len(), "{report:?}");
                assert_eq!(handle.wait().payload(), Some(&b"survived"[..]));
                let ids: Vec<_> = report.unstarted.iter().map(Job::id).collect();
                for other in &others {
                    let state = other.wait().state();
                    let expected =
                        if ids.contains(&other.id()) { JobState::Cancelled } else { JobState::Completed };
                    assert_eq!(state, expected);
                }
                if drain && within.is_none() {
                    assert_eq!(report.completed, others.len());
                }
                delegator.wait_idle();
                assert!(delegator.submit(yields("late", "")).is_err());
                assert_balanced(&delegator.stats());
            }
        }
    });
}

#[test]
fn a_drain_with_a_limit_from_inside_the_only_worker_runs_the_others_until_then() {
    watchdog(|| {
        for (limit, completed, unstarted) in [(FOREVER, 3, 0), (Duration::ZERO, 0, 3)] {
            let delegator = Arc::new(sized(1, 8));
            let (sender, reports) = crossbeam_channel::bounded(1);
            let go = Gate::new();
            let job = Job::new("the end", {
                let (delegator, go) = (Arc::clone(&delegator), go.clone());
                move |_| {
                    go.wait();
                    let report = delegator.shutdown(Shutdown::drain().within(limit));
                    sender.send(report).map_err(|error| error.to_string())?;
                    Ok(Vec::new())
                }
            });
            let _handle = delegator.submit(job).expect("room");
            let _others = fill(&delegator, 3);
            go.open();
            let report = reports.recv_timeout(common::PATIENCE).expect("it must return");
            assert_eq!((report.completed, report.unstarted.len()), (completed, unstarted), "{report:?}");
        }
    });
}

#[test]
fn a_job_that_shuts_down_waits_for_the_jobs_of_others() {
    watchdog(|| {
        let delegator = Arc::new(sized(2, 8));
        let busy = occupy(&delegator);
        let closing = Gate::new();
        let job = Job::new("the end", {
            let (delegator, closing) = (Arc::clone(&delegator), closing.clone());
            move |_| {
                closing.open();
                let report = delegator.shutdown(Shutdown::drain());
                Ok(vec![report.completed as u8, covered(&report) as u8])
            }
        });
        let handle = delegator.submit(job).expect("room");
        closing.wait();
        pause();
        assert!(!handle.is_finished());
        busy.release();
        assert_eq!(handle.join().unwrap(), [1, 1]);
    });
}

#[test]
fn a_job_that_shuts_down_reports_the_stuck_jobs_of_others() {
    watchdog(|| {
        let delegator = Arc::new(sized(2, 8));
        let busy = occupy(&delegator);
        let (sender, reports) = crossbeam_channel::bounded(1);
        let job = Job::new("the end", {
            let delegator = Arc::clone(&delegator);
            move |_| {
                let report = delegator.shutdown(Shutdown::cancel().within(Duration::ZERO));
                sender.send(report).map_err(|error| error.to_string())?;
                Ok(Vec::new())
            }
        });
        let handle = delegator.submit(job).expect("room");
        let report = reports.recv_timeout(common::PATIENCE).expect("it must return");
        let stuck: Vec<_> = report.stuck.iter().map(|worker| worker.running).collect();
        assert_eq!(stuck, [Some(busy.handle.id())], "not the one that asks");
        assert_eq!(covered(&report), 1);
        busy.release();
        assert!(handle.wait().state().is_finished() && busy.handle.wait().state().is_finished());
    });
}

#[test]
fn jobs_that_shut_down_at_the_same_time_do_not_wait_for_each_other() {
    watchdog(|| {
        for round in 0..30 {
            let delegator = Arc::new(sized(3, 8));
            let together = Arc::new(Barrier::new(3));
            let handles: Vec<_> = (0..3)
                .map(|n| {
                    let (own, together) = (Arc::clone(&delegator), Arc::clone(&together));
                    let job = Job::new("the end", move |_| {
                        together.wait();
                        let drain = Shutdown::drain();
                        let report = own.shutdown(if n < round % 4 { Shutdown::cancel() } else { drain });
                        assert!(report.stuck.is_empty(), "{report:?}");
                        Ok(Vec::new())
                    });
                    delegator.submit(job).expect("room")
                })
                .collect();
            assert!(handles.iter().all(|handle| handle.wait().state() == JobState::Completed));
            delegator.wait_idle();
            assert_balanced(&delegator.stats());
        }
    });
}

#[test]
fn a_job_cannot_submit_to_the_delegator_that_it_has_closed() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 1));
        let (submitting, go) = (Gate::new(), Gate::new());
        let job = Job::new("too late", {
            let (submitter, submitting, go) = (delegator.submitter(), submitting.clone(), go.clone());
            move |_| {
                submitting.open();
                go.wait();
                for form in FORMS {
                    let refused = submitter.enter(form, yields("child", ""));
                    assert!(matches!(refused, Err(SubmitError::ShutDown(_))), "{form:?}");
                }
                Ok(Vec::new())
            }
        });
        let handle = delegator.submit(job).expect("room");
        submitting.wait();
        let _queued = fill(&delegator, 1);
        let closing = close(&delegator, Shutdown::drain());
        wait_until_closed(&delegator);
        go.open();
        assert_eq!(handle.wait().state(), JobState::Completed);
        assert_eq!(closing.join().unwrap().completed, 2);
    });
}

#[test]
fn a_parent_may_wait_for_its_children_during_a_drain() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 2));
        let (submitted, go) = (Gate::new(), Gate::new());
        let job = Job::new("parent", {
            let (submitter, submitted, go) = (delegator.submitter(), submitted.clone(), go.clone());
            move |_| {
                let children =
                    [submitter.submit(yields("child", "1"))?, submitter.submit(yields("child", "2"))?];
                submitted.open();
                go.wait();
                let mut bytes = Vec::new();
                for child in children {
                    bytes.extend(child.join()?);
                }
                Ok(bytes)
            }
        });
        let handle = delegator.submit(job).expect("room");
        submitted.wait();
        let closing = close(&delegator, Shutdown::drain());
        wait_until_closed(&delegator);
        go.open();
        assert_eq!(handle.join().expect("completed"), b"12");
        assert_eq!(closing.join().unwrap().completed, 3);
    });
}

#[test]
fn a_parent_hears_that_its_children_were_handed_back() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 2));
        let submitted = Gate::new();
        let job = Job::new("parent", {
            let (submitter, submitted) = (delegator.submitter(), submitted.clone());
            move |ctx| {
                let child = submitter.submit(yields("child", ""))?;
                submitted.open();
                // Only the cancel of the shutdown ends this.
                let _interrupted = ctx.sleep(common::PATIENCE);
                assert_eq!(child.wait().state(), JobState::Cancelled);
                ctx.check()?;
                Ok(Vec::new())
            }
        });
        let handle = delegator.submit(job).expect("room");
        submitted.wait();
        let report = delegator.shutdown(Shutdown::cancel());
        assert_eq!(handle.wait().state(), JobState::Cancelled);
        assert_eq!((report.cancelled, report.unstarted.len()), (1, 1), "{report:?}");
    });
}

#[test]
fn dropping_a_delegator_drains_it() {
    watchdog(|| {
        let name = own_name();
        let delegator =
            Delegator::builder().workers(2).queue_capacity(64).thread_name(name.as_str()).build().unwrap();
        let busy = occupy(&delegator);
        let ran = Counter::new();
        let handles: Vec<_> = (0..50)
            .map(|_| {
                let ran = ran.clone();
                let job = Job::new("kept", move |_| {
                    ran.add();
                    Ok(Vec::new())
                });
                delegator.submit(job).expect("room")
            })
            .collect();
        let dropping = thread::spawn(move || drop(delegator));
        ran.wait_for(50);
        pause();
        assert!(!dropping.is_finished(), "it must wait for the job that runs");
        busy.release();
        dropping.join().unwrap();
        assert!(states(&handles).iter().all(|state| *state == JobState::Completed));
        assert_eq!(busy.handle.state(), JobState::Completed);
        assert_threads_gone(&name);
    });
}

#[test]
fn every_thread_and_every_job_of_many_short_lived_delegators_comes_to_its_end() {
    watchdog(|| {
        let name = own_name();
        let (starts, stops, owned) = (Counter::new(), Counter::new(), Counter::new());
        for round in 0..60 {
            let delegator = Delegator::builder()
                .workers(2)
                .queue_capacity(4)
                .thread_name(name.as_str())
                .on_worker_start(counts(&starts))
                .on_worker_stop(counts(&stops))
                .build()
                .unwrap();
            for _ in 0..round % 5 {
                drop(delegator.submit(keeps("short", common::CountOnDrop(owned.clone()))).expect("room"));
            }
        }
        assert_eq!((starts.get(), stops.get()), (120, 120));
        assert_eq!(owned.get(), (0..60).map(|round| round % 5).sum());
        assert_threads_gone(&name);
    });
}

#[test]
fn the_last_owner_of_a_delegator_may_be_its_own_job() {
    watchdog(|| {
        for (workers, queued) in [(1, 0), (1, 3), (3, 3)] {
            let name = own_name();
            let delegator =
                Delegator::builder().workers(workers).queue_capacity(8).thread_name(name.as_str()).build();
            let delegator = Arc::new(delegator.unwrap());
            let (started, go) = (Gate::new(), Gate::new());
            let owner = Mutex::new(Some(Arc::clone(&delegator)));
            let job = Job::new("last owner", {
                let (started, go) = (started.clone(), go.clone());
                move |_| {
                    started.open();
                    go.wait();
                    drop(owner.lock().unwrap().take());
                    Ok(b"still alive".to_vec())
                }
            });
            let handle = delegator.submit(job).expect("room");
            started.wait();
            let others = fill(&delegator, queued);
            drop(delegator);
            go.open();
            assert_eq!(handle.wait().payload(), Some(&b"still alive"[..]));
            assert!(others.iter().all(|other| other.wait().state() == JobState::Completed), "a drop drains");
            assert_threads_gone(&name);
        }
    });
}

#[test]
fn a_job_that_drops_its_delegator_does_not_wait_for_other_jobs() {
    watchdog(|| {
        let delegator = Arc::new(sized(2, 8));
        let busy = occupy(&delegator);
        let go = Gate::new();
        let owner = Mutex::new(Some(Arc::clone(&delegator)));
        let job = Job::new("last owner", {
            let go = go.clone();
            move |_| {
                go.wait();
                drop(owner.lock().unwrap().take());
                Ok(Vec::new())
            }
        });
        let handle = delegator.submit(job).expect("room");
        drop(delegator);
        go.open();
        assert_eq!(handle.wait().state(), JobState::Completed);
        assert_eq!(busy.handle.state(), JobState::Running);
        busy.release();
        assert_eq!(busy.handle.wait().state(), JobState::Completed);
    });
}

#[test]
fn the_last_owner_of_a_delegator_may_be_a_value_that_its_job_captured() {
    watchdog(|| {
        let name = own_name();
        let delegator = Delegator::builder().workers(1).queue_capacity(8).thread_name(name.as_str()).build();
        let delegator = Arc::new(delegator.unwrap());
        let (started, go) = (Gate::new(), Gate::new());
        let job = Job::new("last owner", {
            let (owner, started, go) = (Arc::clone(&delegator), started.clone(), go.clone());
            move |_| {
                started.open();
                go.wait();
                Ok(owner.workers().len().to_le_bytes().to_vec())
            }
        });
        let handle = delegator.submit(job).expect("room");
        started.wait();
        let others = fill(&delegator, 3);
        drop(delegator);
        go.open();
        assert_eq!(handle.wait().state(), JobState::Completed);
        assert!(others.iter().all(|other| other.wait().state() == JobState::Completed));
        assert_threads_gone(&name);
    });
}

#[test]
fn a_delegator_may_be_dropped_by_a_job_of_another() {
    watchdog(|| {
        let (one, two) = (sized(1, 4), sized(1, 4));
        let handles = fill(&two, 4);
        let two = Mutex::new(Some(two));
        let job = Job::new("undertaker", move |_| {
            drop(two.lock().unwrap().take());
            Ok(Vec::new())
        });
        assert_eq!(one.submit(job).expect("room").wait().state(), JobState::Completed);
        assert!(
            states(&handles).iter().all(|state| *state == JobState::Completed),
            "a drop from outside waits"
        );
    });
}

#[test]
fn jobs_are_not_stranded_by_a_submitter_that_lives_on() {
    watchdog(|| {
        let dropped = Counter::new();
        let mut submitters = Vec::new();
        for cancel in [false, true] {
            let delegator = sized(1, 8);
            let busy = occupy(&delegator);
            submitters.push(delegator.submitter());
            let handles: Vec<_> = (0..8)
                .map(|_| {
                    delegator.submit(keeps("owner", common::CountOnDrop(dropped.clone()))).expect("room")
                })
                .collect();
            if cancel {
                let report = delegator.shutdown(Shutdown::cancel().within(Duration::ZERO));
                assert_eq!(report.unstarted.len(), 8);
                busy.release();
            } else {
                busy.release();
                drop(delegator);
            }
            assert!(handles.iter().all(JobHandle::is_finished));
        }
        assert_eq!(dropped.get(), 16);
        assert!(submitters.iter().all(|submitter| submitter.submit(yields("late", "")).is_err()));
    });
}

#[test]
fn a_shutdown_while_workers_sleep_wakes_them_all() {
    watchdog(|| {
        for _ in 0..10 {
            let delegator = delegator(22);
            delegator.submit(yields("warm-up", "")).expect("room").wait();
            thread::sleep(Duration::from_millis(5));
            drop(delegator);
        }
    });
}

#[test]
fn a_job_cancelled_just_before_a_shutdown_does_not_hang_it() {
    watchdog(|| {
        for round in 0..200 {
            let delegator = sized(1, 4);
            let ran = Arc::new(AtomicUsize::new(0));
            let job = Job::new("contested", {
                let ran = Arc::clone(&ran);
                move |_| {
                    ran.fetch_add(1, Ordering::SeqCst);
                    Ok(Vec::new())
                }
            });
            let handle = delegator.submit(job).expect("room");
            handle.cancel();
            let report =
                delegator.shutdown(if round % 2 == 0 { Shutdown::drain() } else { Shutdown::cancel() });
            assert!(covered(&report) <= 1);
            assert!(handle.is_finished());
            assert_eq!(ran.load(Ordering::SeqCst) == 1, handle.state() == JobState::Completed);
        }
    });
}

#[test]
fn a_destructor_that_looks_at_other_jobs_does_not_hang_a_shutdown() {
    struct Looks(Vec<JobHandle>);

    impl Drop for Looks {
        fn drop(&mut self) {
            for handle in &self.0 {
                let _seen = (handle.state(), handle.try_wait(), handle.cancel(), handle.done());
            }
        }
    }

    watchdog(|| {
        for cancel in [false, true] {
            let delegator = sized(1, 16);
            let busy = occupy(&delegator);
            let others = fill(&delegator, 4);
            let looks: Vec<_> = (0..4)
                .map(|_| delegator.submit(keeps("looks", Looks(others.clone()))).expect("room"))
                .collect();
            let more = fill(&delegator, 4);
            if !cancel {
                busy.release();
            }
            let shutdown = if cancel { Shutdown::cancel().within(Duration::ZERO) } else { Shutdown::drain() };
            drop(delegator.shutdown(shutdown));
            busy.release();
            assert!(
                others.iter().chain(&looks).chain(&more).all(|handle| handle.wait().state().is_finished())
            );
        }
    });
}

#[test]
fn a_shutdown_in_one_phase_after_another_refuses_from_the_first_moment() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 1));
        let busy = occupy(&delegator);
        let queued = fill(&delegator, 1);
        assert!(matches!(delegator.try_submit(yields("probe", "")), Err(SubmitError::Full(_))));
        let closing = close(&delegator, Shutdown::drain());
        wait_until_closed(&delegator);
        // Closed, but not done.
        assert_eq!((delegator.stats().running, delegator.stats().queued), (1, 1));
        assert_eq!((busy.handle.state(), queued[0].state()), (JobState::Running, JobState::Queued));
        assert!(!delegator.wait_idle_timeout(Duration::ZERO));
        busy.release();
        assert_eq!(closing.join().unwrap().completed, 2);
        assert_eq!((delegator.stats().running, delegator.stats().queued), (0, 0));
        assert!(delegator.wait_idle_timeout(Duration::ZERO));
    });
}
