//! What subscribers are told, in which order, and what becomes of those who do not listen.

mod common;

use std::time::Duration;

use common::{FOREVER, PATIENCE, PanicOnDrop, delegator, fails, occupy, panics, watchdog, yields};
use crossbeam_channel::{Receiver, TryRecvError};
use workpath::{Delegator, Error, Event, Job, JobId, JobState, Shutdown, SubmitErrorKind};

/// An event of this job, in a word.
fn word(event: &Event, job: JobId) -> Option<String> {
    match event {
        Event::Submitted { id, name, .. } if *id == job => Some(format!("submitted {name}")),
        Event::Started { id, name, worker, .. } if *id == job => Some(format!("started {name} on {worker}")),
        Event::Rejected { id, name, why, .. } if *id == job => Some(format!("rejected {name}: {why}")),
        Event::Finished(record) if record.id() == job => Some(format!("finished {}", record.state())),
        _ => None,
    }
}

fn all(events: &Receiver<Event>) -> Vec<Event> {
    let mut all = Vec::new();
    loop {
        match events.recv_timeout(PATIENCE) {
            Ok(event) => all.push(event),
            Err(error) if error.is_disconnected() => return all,
            Err(_) => panic!("the events did not end after {all:?}"),
        }
    }
}

fn words(events: &[Event], job: JobId) -> Vec<String> {
    events.iter().filter_map(|event| word(event, job)).collect()
}

#[test]
fn a_job_is_submitted_then_started_then_finished() {
    watchdog(|| {
        let delegator = delegator(2);
        let events = delegator.subscribe(100_000);
        let jobs: Vec<_> = (0..2000)
            .map(|n| match n % 3 {
                0 => (yields("good", "x"), "completed"),
                1 => (fails("bad", "no"), "failed"),
                _ => (panics("ugly", "boom"), "panicked"),
            })
            .collect();
        let jobs: Vec<_> = jobs
            .into_iter()
            .map(|(job, end)| (delegator.submit(job).expect("an open delegator"), end))
            .collect();
        delegator.shutdown(Shutdown::drain());
        let events = all(&events);
        for (handle, end) in jobs {
            let record = handle.wait();
            let (name, worker) = (record.name(), record.worker().expect("it ran"));
            let expected = [
                format!("submitted {name}"),
                format!("started {name} on {worker}"),
                format!("finished {end}"),
            ];
            assert_eq!(words(&events, record.id()), expected);
        }
    });
}

#[test]
fn a_job_that_ends_in_the_queue_is_never_started() {
    watchdog(|| {
        let delegator = delegator(1);
        let events = delegator.subscribe(1000);
        let busy = occupy(&delegator);
        let cancelled = delegator.submit(yields("cancelled", "")).unwrap();
        let late = delegator.submit(yields("late", "").with_timeout(Duration::ZERO)).unwrap();
        assert!(cancelled.cancel());
        busy.release();
        delegator.shutdown(Shutdown::drain());
        let events = all(&events);
        assert_eq!(words(&events, cancelled.id()), ["submitted cancelled", "finished cancelled"]);
        assert_eq!(words(&events, late.id()), ["submitted late", "finished timed out"]);
    });
}

#[test]
fn a_refused_job_is_rejected_with_the_reason() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(1).queue_capacity(1).build().unwrap();
        let busy = occupy(&delegator);
        let events = delegator.subscribe(1000);
        let _queued = delegator.submit(yields("queued", "")).unwrap();
        let full = delegator.try_submit(yields("full", "")).unwrap_err().into_job().id();
        let late = delegator.submit_timeout(yields("late", ""), Duration::ZERO).unwrap_err().into_job().id();
        busy.release();
        let submitter = delegator.submitter();
        let told: Vec<Event> = events.try_iter().collect();
        assert_eq!(words(&told, full), ["submitted full", "rejected full: the queue is full"]);
        assert_eq!(
            words(&told, late),
            ["submitted late", "rejected late: the queue stayed full for the time given"]
        );
        let closed = {
            let blocker = occupy_behind(&delegator);
            std::thread::scope(|scope| {
                let shutdown = scope.spawn(|| delegator.shutdown(Shutdown::drain()));
                while !matches!(events.recv_timeout(PATIENCE), Ok(Event::ShuttingDown)) {}
                let refused = loop {
                    match submitter.try_submit(yields("closed", "")) {
                        Err(error @ workpath::SubmitError::ShutDown(_)) => break error.into_job().id(),
                        _ => std::thread::yield_now(),
                    }
                };
                drop(blocker);
                shutdown.join().unwrap();
                refused
            })
        };
        let told = all(&events);
        assert_eq!(words(&told, closed), ["submitted closed", "rejected closed: the delegator is shut down"]);
        assert!(!told.iter().any(|event| matches!(event, Event::ShuttingDown)), "told once");
    });
}

fn occupy_behind(delegator: &Delegator) -> common::Busy {
    delegator.wait_idle();
    occupy(delegator)
}

#[test]
fn unstarted_jobs_of_a_shutdown_finish_before_the_events_end() {
    watchdog(|| {
        let delegator = delegator(1);
        let events = delegator.subscribe(1000);
        let nap = || Job::new("nap", |ctx| ctx.sleep(FOREVER).map(|()| Vec::new()));
        let handles: Vec<_> = (0..50).map(|_| delegator.submit(nap()).unwrap()).collect();
        delegator.shutdown(Shutdown::cancel());
        let events = all(&events);
        for handle in handles {
            assert_eq!(words(&events, handle.id()).last().map(String::as_str), Some("finished cancelled"));
        }
    });
}

#[test]
fn what_a_full_channel_misses_is_counted_and_told() {
    watchdog(|| {
        let delegator = delegator(1);
        let slow = delegator.subscribe(2);
        let fast = delegator.subscribe(1000);
        for _ in 0..10 {
            let _ = delegator.submit(yields("work", "")).unwrap().wait();
        }
        delegator.wait_idle();
        while fast.len() < 30 {
            std::thread::yield_now();
        }
        // Two are in the channel; the 28 others come before what fits next.
        assert!(matches!(slow.recv(), Ok(Event::Submitted { .. })));
        assert!(matches!(slow.recv(), Ok(Event::Started { .. })));
        let last = delegator.submit(yields("last", "")).unwrap();
        last.wait();
        delegator.shutdown(Shutdown::drain());
        let rest = all(&slow);
        let Some(Event::Missed(28)) = rest.first() else { panic!("{rest:?}") };
        assert_eq!(words(&rest, last.id()).first().map(String::as_str), Some("submitted last"));
        let missed: u64 =
            rest.iter().map(|event| if let Event::Missed(missed) = event { *missed } else { 0 }).sum();
        let seen = 2 + rest.iter().filter(|event| !matches!(event, Event::Missed(_))).count();
        assert_eq!(missed + seen as u64, all(&fast).len() as u64);
    });
}

#[test]
fn a_dropped_receiver_is_forgotten_and_others_go_on() {
    watchdog(|| {
        let delegator = delegator(1);
        let (gone, kept) = (delegator.subscribe(1), delegator.subscribe(100));
        drop(gone);
        let handle = delegator.submit(yields("work", "")).unwrap();
        handle.wait();
        delegator.shutdown(Shutdown::drain());
        assert_eq!(words(&all(&kept), handle.id()).len(), 3);
    });
}

#[test]
fn a_subscription_after_the_end_has_ended() {
    let delegator = delegator(1);
    delegator.shutdown(Shutdown::drain());
    assert_eq!(delegator.subscribe(1).try_recv().err(), Some(TryRecvError::Disconnected));
}

#[test]
fn any_capacity_will_do() {
    watchdog(|| {
        let delegator = delegator(1);
        let (none, much) = (delegator.subscribe(0), delegator.subscribe(usize::MAX));
        let _ = delegator.submit(yields("work", "")).unwrap().wait();
        delegator.shutdown(Shutdown::drain());
        let (none, much) = (all(&none), all(&much));
        assert_eq!(much.len(), 4);
        assert!(matches!(none[..], [Event::Submitted { .. }, Event::Missed(3)]), "{none:?}");
    });
}

#[test]
fn an_error_that_panics_in_its_drop_ends_no_worker() {
    #[derive(Debug)]
    struct Bad(#[allow(dead_code, reason = "its drop is what matters")] PanicOnDrop);
    impl std::fmt::Display for Bad {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bad")
        }
    }
    impl std::error::Error for Bad {}

    watchdog(|| {
        let delegator = Delegator::builder().workers(1).retain(workpath::Retention::none()).build().unwrap();
        // Full after the first event: what comes later is dropped by the worker.
        let events = delegator.subscribe(1);
        for _ in 0..3 {
            let bad = Job::new("bad", |_| Err(Error::new(Bad(PanicOnDrop("in the drop")))));
            drop(delegator.submit(bad).unwrap());
        }
        let good = delegator.submit(yields("good", "")).unwrap();
        assert_eq!(good.wait().state(), JobState::Completed);
        drop(events);
    });
}

#[test]
fn reasons_read_as_the_errors_of_submissions_do() {
    let delegator = delegator(1);
    delegator.shutdown(Shutdown::drain());
    let error = delegator.submit(yields("late", "")).unwrap_err();
    assert!(error.to_string().ends_with(&SubmitErrorKind::ShutDown.to_string()));
}
