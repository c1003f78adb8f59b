//! Fresh workers in the place of those that stuck jobs keep.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{CapturedLog, Gate, PATIENCE, eventually, gated, occupy, watchdog, yields};
use crossbeam_channel::Receiver;
use pool::{assert_balanced, assert_threads_gone, covered, own_name, threads_named};
use workpath::{Builder, Context, Delegator, Event, Job, JobHandle, JobState, Overflow, Shutdown};

const MARGIN: Duration = Duration::from_millis(20);

fn builder(workers: usize, replacements: usize) -> Builder {
    let builder = Delegator::builder().workers(workers).queue_capacity(64);
    builder.stuck_after(MARGIN).replacements(replacements)
}

/// A job that was cancelled and goes on until it is released.
fn start_stuck(delegator: &Delegator) -> (JobHandle, Gate) {
    let (started, release) = (Gate::new(), Gate::new());
    let handle = delegator.submit(gated("stuck", &started, &release)).expect("an open delegator");
    started.wait();
    assert!(handle.cancel());
    (handle, release)
}

/// Waits for the next replacement: the worker that is kept, and the one in its place.
#[track_caller]
fn replaced(events: &Receiver<Event>) -> (usize, usize) {
    loop {
        if let Event::WorkerReplaced { worker, by, .. } =
            events.recv_timeout(PATIENCE).expect("a replacement")
        {
            return (worker, by);
        }
    }
}

fn indices(delegator: &Delegator) -> Vec<usize> {
    delegator.workers().iter().map(|worker| worker.index).collect()
}

#[test]
fn the_queue_goes_on_and_the_old_worker_ends_with_its_job() {
    watchdog(|| {
        let name = own_name();
        let hooks: Arc<Mutex<Vec<_>>> = Arc::default();
        let (starts, stops) = (Arc::clone(&hooks), Arc::clone(&hooks));
        let delegator = builder(1, 1)
            .thread_name(&*name)
            .on_worker_start(move |index| starts.lock().unwrap().push(("start", index)))
            .on_worker_stop(move |index| stops.lock().unwrap().push(("stop", index)))
            .build()
            .unwrap();
        let events = delegator.subscribe(1000);
        assert_eq!(indices(&delegator), [0]);
        let (stuck, release) = start_stuck(&delegator);
        let next = delegator.submit(yields("next", "x")).unwrap();
        assert_eq!(replaced(&events), (0, 1));
        let next = next.wait();
        assert_eq!((next.worker(), next.payload()), (Some(1), Some(&b"x"[..])));
        let workers = delegator.workers();
        assert_eq!(indices(&delegator), [0, 1]);
        assert_eq!(workers[1].thread_name, format!("{name}-1"));
        assert_eq!((workers[0].stuck, workers[0].running, workers[1].stuck), (true, Some(stuck.id()), false));

        release.open();
        let record = stuck.wait();
        assert_eq!((record.state(), record.worker()), (JobState::Completed, Some(0)));
        assert!(delegator.registry().get(stuck.id()).is_some());
        eventually("the old worker has ended", || indices(&delegator) == [1]);
        if threads_named(&name).is_some() {
            eventually("its thread too", || threads_named(&name) == Some(2));
        }
        for _ in 0..10 {
            assert_eq!(delegator.submit(yields("later", "")).unwrap().wait().worker(), Some(1));
        }
        let report = delegator.shutdown(Shutdown::drain());
        assert_eq!(covered(&report), 0);
        assert_threads_gone(&name);
        let mut calls = hooks.lock().unwrap().clone();
        calls.sort_unstable();
        assert_eq!(calls, [("start", 0), ("start", 1), ("stop", 0), ("stop", 1)]);
        drop(delegator);
        assert_eq!(Arc::strong_count(&hooks), 1, "the hooks are dropped with the delegator");
    });
}

#[test]
fn no_more_are_replaced_than_may_be() {
    watchdog(|| {
        let delegator = builder(1, 2).build().unwrap();
        let events = delegator.subscribe(1000);
        let mut stuck = Vec::new();
        for round in 0..2 {
            stuck.push(start_stuck(&delegator));
            assert_eq!(replaced(&events), (round, round + 1));
        }
        stuck.push(start_stuck(&delegator));
        eventually("all are stuck", || delegator.stats().stuck == 3);
        let waits = delegator.submit(yields("waits", "")).unwrap();
        assert_eq!(waits.wait_timeout(4 * MARGIN).map(|record| record.state()), None);
        assert_eq!(indices(&delegator), [0, 1, 2]);
        assert_balanced(&delegator.stats());
        // The last worker was not replaced: it stays.
        stuck[2].1.open();
        assert_eq!(waits.wait().worker(), Some(2));
        for (handle, release) in stuck {
            release.open();
            handle.wait();
        }
        eventually("the others have ended", || indices(&delegator) == [2]);
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn without_replacements_a_stuck_job_keeps_the_queue_waiting() {
    watchdog(|| {
        let delegator = builder(1, 0).build().unwrap();
        let (stuck, release) = start_stuck(&delegator);
        eventually("it is stuck", || delegator.stats().stuck == 1);
        let waits = delegator.submit(yields("waits", "")).unwrap();
        assert_eq!(waits.wait_timeout(4 * MARGIN).map(|record| record.state()), None);
        release.open();
        assert_eq!(waits.wait().worker(), Some(0));
        stuck.wait();
        assert_eq!(indices(&delegator), [0]);
    });
}

#[test]
fn a_shutdown_waits_for_old_and_fresh_workers_and_counts_each_job_once() {
    watchdog(|| {
        let name = own_name();
        let delegator = builder(2, 2).thread_name(&*name).build().unwrap();
        let events = delegator.subscribe(1000);
        let (one, release_one) = start_stuck(&delegator);
        replaced(&events);
        let (two, release_two) = start_stuck(&delegator);
        replaced(&events);
        let queued: Vec<_> = (0..10).map(|_| delegator.submit(yields("queued", "")).unwrap()).collect();
        let report = std::thread::scope(|scope| {
            let shutdown = scope.spawn(|| delegator.shutdown(Shutdown::drain()));
            // It counts from here on.
            while !matches!(events.recv_timeout(PATIENCE).expect("a shutdown"), Event::ShuttingDown) {}
            queued.iter().for_each(|handle| assert_eq!(handle.wait().state(), JobState::Completed));
            release_one.open();
            one.wait();
            assert!(!shutdown.is_finished(), "one of them still runs");
            release_two.open();
            two.wait();
            shutdown.join().unwrap()
        });
        assert!(report.stuck.is_empty() && (2..=12).contains(&covered(&report)), "{report:?}");
        assert_balanced(&delegator.stats());
        assert_threads_gone(&name);
    });
}

#[test]
fn a_drain_with_a_stuck_job_on_the_only_worker_finishes_the_queue() {
    watchdog(|| {
        let delegator = builder(1, 1).build().unwrap();
        let events = delegator.subscribe(1000);
        let (started, release) = (Gate::new(), Gate::new());
        let stuck = delegator.submit(gated("stuck", &started, &release)).unwrap();
        started.wait();
        let queued: Vec<_> = (0..10).map(|_| delegator.submit(yields("queued", "")).unwrap()).collect();
        std::thread::scope(|scope| {
            let shutdown = scope.spawn(|| delegator.shutdown(Shutdown::drain()));
            events.iter().find(|event| matches!(event, Event::ShuttingDown)).expect("it begins");
            stuck.cancel();
            queued.iter().for_each(|handle| assert_eq!(handle.wait().worker(), Some(1)));
            release.open();
            assert_eq!(covered(&shutdown.join().unwrap()), 11);
        });
    });
}

#[test]
fn a_shutdown_inside_a_job_on_a_fresh_worker_waits_for_the_old_one() {
    watchdog(|| {
        let delegator = Arc::new(builder(1, 1).build().unwrap());
        let events = delegator.subscribe(1000);
        let (stuck, release) = start_stuck(&delegator);
        replaced(&events);
        let (owner, ended) = (Arc::downgrade(&delegator), Gate::new());
        let ends = ended.clone();
        let inside = Job::new("inside", move |_| {
            let report = owner.upgrade().ok_or("no delegator")?.shutdown(Shutdown::drain());
            ends.open();
            Ok(vec![report.completed as u8])
        });
        let inside = delegator.submit(inside).unwrap();
        assert!(!ended.wait_timeout(4 * MARGIN), "the stuck job still runs");
        release.open();
        assert_eq!(inside.wait().payload(), Some(&[1][..]));
        stuck.wait();
    });
}

#[test]
fn a_shutdown_with_a_limit_reports_the_stuck_job_once() {
    watchdog(|| {
        let delegator = builder(1, 1).build().unwrap();
        let events = delegator.subscribe(1000);
        let (stuck, release) = start_stuck(&delegator);
        replaced(&events);
        let done = delegator.submit(yields("done", "")).unwrap();
        done.wait();
        let report = delegator.shutdown(Shutdown::drain().within(MARGIN));
        let hung: Vec<_> =
            report.stuck.iter().map(|worker| (worker.index, worker.running, worker.stuck)).collect();
        assert_eq!(hung, [(0, Some(stuck.id()), true)]);
        assert_eq!(covered(&report), 1);
        release.open();
        assert_eq!(stuck.wait().state(), JobState::Completed);
    });
}

#[test]
fn a_worker_that_is_stuck_inside_other_jobs_finishes_those_too() {
    watchdog(|| {
        let delegator = Arc::new(builder(1, 1).build().unwrap());
        let events = delegator.subscribe(1000);
        let (started, release) = (Gate::new(), Gate::new());
        let (submitter, gates) = (delegator.submitter(), (started.clone(), release.clone()));
        let outer = Job::new("outer", move |_| {
            let inner = gated("inner", &gates.0, &gates.1).with_timeout(Duration::from_secs(1));
            let inner = submitter.submit(inner)?.wait();
            // And one more inside, after the mark.
            let last = submitter.submit(yields("last", "z"))?.wait();
            Ok([inner.worker(), last.worker()].map(|worker| worker.unwrap_or(9) as u8).to_vec())
        });
        let outer = delegator.submit(outer).unwrap();
        started.wait();
        assert_eq!(replaced(&events), (0, 1));
        assert_eq!(delegator.submit(yields("next", "")).unwrap().wait().worker(), Some(1));
        release.open();
        let record = outer.wait();
        assert_eq!((record.state(), record.worker()), (JobState::Completed, Some(0)));
        let workers = record.payload().unwrap();
        assert!(workers[0] == 0 && workers[1] < 2, "{workers:?}");
        eventually("the old worker has ended", || indices(&delegator) == [1]);
    });
}

#[test]
fn without_a_queue_the_fresh_worker_takes_jobs_and_the_old_one_does_not() {
    watchdog(|| {
        let delegator = builder(1, 2).queue_capacity(0).build().unwrap();
        let events = delegator.subscribe(10_000);
        let (stuck, release) = start_stuck(&delegator);
        replaced(&events);
        for _ in 0..100 {
            assert_eq!(delegator.submit(yields("handed", "")).unwrap().wait().worker(), Some(1));
        }
        release.open();
        stuck.wait();
        eventually("the old worker has ended", || indices(&delegator) == [1]);
        // One worker is free, not two.
        let (busy, release) = start_stuck(&delegator);
        assert!(delegator.try_submit(yields("refused", "")).is_err());
        assert_eq!(replaced(&events), (1, 2));
        assert_eq!(delegator.submit(yields("handed", "")).unwrap().wait().worker(), Some(2));
        release.open();
        busy.wait();
    });
}

#[test]
fn a_submitter_that_is_stuck_in_its_own_job_is_reported_and_not_replaced() {
    watchdog(|| {
        let delegator = builder(1, 1).queue_capacity(1).build().unwrap();
        let busy = occupy(&delegator);
        let queued = delegator.submit(yields("queued", "")).unwrap();
        let events = delegator.subscribe(1000);
        let (started, release) = (Gate::new(), Gate::new());
        let (ctx, canceller) = Context::background().with_cancel();
        let job = gated("here", &started, &release).with_context(&ctx);
        std::thread::scope(|scope| {
            let submitter = scope.spawn(|| delegator.submit_with(job, Overflow::CallerRuns).unwrap().wait());
            started.wait();
            canceller.cancel();
            let told = events.iter().find_map(|event| match event {
                Event::Stuck { name, .. } => Some(name),
                _ => None,
            });
            assert_eq!((told.as_deref(), delegator.stats().stuck), (Some("here"), 1));
            release.open();
            assert_eq!(submitter.join().unwrap().state(), JobState::Completed);
        });
        busy.release();
        queued.wait();
        assert_eq!((indices(&delegator), delegator.stats().stuck), (vec![0], 0));
        delegator.shutdown(Shutdown::drain());
        assert!(!events.iter().any(|event| matches!(event, Event::WorkerReplaced { .. })));
    });
}

#[test]
fn a_cancel_with_a_shutdown_starts_no_worker() {
    watchdog(|| {
        let log = CapturedLog::install();
        let delegator = builder(1, 1).build().unwrap();
        let events = delegator.subscribe(1000);
        let (started, release) = (Gate::new(), Gate::new());
        let deaf = delegator.submit(gated("deaf", &started, &release)).unwrap();
        started.wait();
        std::thread::scope(|scope| {
            let shutdown = scope.spawn(|| delegator.shutdown(Shutdown::cancel()));
            eventually("it is stuck", || delegator.stats().stuck == 1);
            eventually("it is logged", || {
                !log.containing(&format!("job {} \"deaf\" is stuck", deaf.id())).is_empty()
            });
            release.open();
            assert_eq!(shutdown.join().unwrap().completed, 1);
        });
        assert!(!events.iter().any(|event| matches!(event, Event::WorkerReplaced { .. })));
    });
}

#[test]
fn many_jobs_that_come_back_around_their_margin_lose_nothing() {
    watchdog(|| {
        let name = own_name();
        let margin = Duration::from_millis(2);
        for capacity in [0, 64] {
            let delegator = Delegator::builder()
                .workers(2)
                .queue_capacity(capacity)
                .stuck_after(margin)
                .replacements(20)
                .thread_name(&*name)
                .build()
                .unwrap();
            let mut handles = Vec::new();
            for round in 0..200_u32 {
                let job = Job::new("late", move |_| {
                    let time = margin + Duration::from_micros(u64::from(round % 40) * 100);
                    Context::background().sleep(time).map(|()| Vec::new())
                });
                handles.push(delegator.submit(job).unwrap());
                if let Some(handle) = handles.iter().rev().find(|handle| handle.state() == JobState::Running)
                {
                    handle.cancel();
                }
            }
            let ends: Vec<_> = handles.iter().map(|handle| handle.wait().state()).collect();
            assert!(ends.iter().all(|state| state.is_finished()));
            // Who was marked too late does one more job.
            for _ in 0..100 {
                let _ = delegator.submit(yields("more", "")).unwrap().wait();
            }
            let report = delegator.shutdown(Shutdown::drain());
            assert!(report.stuck.is_empty());
            assert_balanced(&delegator.stats());
            assert_eq!(delegator.stats().submitted, 300);
            assert_threads_gone(&name);
        }
    });
}
