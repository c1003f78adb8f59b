//! What operations say of themselves, who sees it, and when.

mod common;

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{BRIEF, CapturedLog, Gate, PATIENCE, delegator, eventually, occupy, watchdog, yields};
use workpath::{
    Context, Delegator, ErrorKind, Event, Job, JobHandle, JobRecord, JobState, Manual, Overflow, Retention,
    Shutdown,
};

/// A job that says this and then waits.
fn says(text: &'static str, said: &Gate, release: &Gate) -> Job {
    let (said, release) = (said.clone(), release.clone());
    Job::new("says", move |ctx: &Context| {
        ctx.checkpoint(text)?;
        ctx.progress(1, 2);
        said.open();
        release.wait();
        Ok(Vec::new())
    })
}

fn text(record: &JobRecord) -> Option<String> {
    record.checkpoint().map(|checkpoint| checkpoint.text().to_owned())
}

fn manual(name: &str) -> Manual {
    Delegator::builder().thread_name(name).manual().expect("valid settings")
}

/// A job of 30 seconds that is 18 seconds in at its checkpoint, and the line of that.
fn slow(name: &'static str) -> (Job, u32) {
    let line = line!() + 3;
    let job = Job::new(name, |ctx| {
        ctx.sleep(Duration::from_secs(18))?;
        ctx.checkpoint("row 41200")?;
        ctx.sleep(Duration::from_secs(60))?;
        Ok(Vec::new())
    });
    (job, line)
}

#[test]
fn everybody_sees_where_a_running_job_is_and_the_record_keeps_it() {
    watchdog(|| {
        let delegator = delegator(2);
        let (said, release) = (Gate::new(), Gate::new());
        let handle = delegator.submit(says("here", &said, &release)).unwrap();
        said.wait();
        let checkpoint = handle.checkpoint().expect("it said so");
        assert_eq!((checkpoint.text(), checkpoint.file()), ("here", file!()));
        assert!(checkpoint.to_string().starts_with("checkpoints.rs:"), "{checkpoint}");
        assert!(checkpoint.to_string().ends_with(" \"here\""), "{checkpoint}");
        let progress = handle.progress().expect("it said so");
        assert_eq!((progress.done, progress.total), (1, 2));

        let workers = delegator.workers();
        let busy = workers.iter().find(|worker| worker.running == Some(handle.id())).expect("it runs");
        assert_eq!((busy.job_name.as_deref(), busy.overdue), (Some("says"), None));
        assert_eq!((&busy.checkpoint, busy.progress), (&Some(checkpoint.clone()), Some(progress)));
        assert!(busy.running_for.is_some());
        let idle = workers.iter().find(|worker| worker.running.is_none()).expect("the other one");
        assert_eq!(
            (&idle.job_name, idle.running_for, &idle.checkpoint, idle.progress),
            (&None, None, &None, None)
        );

        release.open();
        let record = handle.wait();
        assert_eq!((record.checkpoint(), record.progress()), (Some(checkpoint.clone()), Some(progress)));
        assert_eq!((handle.checkpoint(), handle.progress()), (Some(checkpoint.clone()), Some(progress)));
        assert!(record.started_at() <= Some(checkpoint.time()) && checkpoint.time() <= record.completed_at());
        let kept = delegator.registry().get(handle.id()).expect("kept");
        assert_eq!(kept.checkpoint(), Some(checkpoint));
    });
}

#[test]
fn what_its_submitter_runs_is_seen_on_its_way_too() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(1).queue_capacity(1).build().unwrap();
        let _busy = occupy(&delegator);
        let _queued = delegator.submit(yields("queued", []).with_key("another")).unwrap();
        let (said, release) = (Gate::new(), Gate::new());
        let (submitter, job) = (delegator.submitter(), says("here", &said, &release).with_key("key"));
        let caller = thread::spawn(move || submitter.submit_with(job, Overflow::CallerRuns).unwrap());
        said.wait();
        let joined = delegator.coalesce("key", yields("joins", [])).unwrap();
        assert_eq!(joined.handle().checkpoint().map(|said| said.text().to_owned()).as_deref(), Some("here"));
        release.open();
        assert_eq!(caller.join().unwrap().id(), joined.handle().id());
    });
}

#[test]
fn the_error_of_a_deadline_says_which_job_was_where_and_for_how_long() {
    let delegator = manual("imports");
    let (job, line) = slow("import");
    let record = delegator.submit(job.with_timeout(Duration::from_secs(30))).unwrap().wait();
    let error = record.error().expect("it was late");
    assert_eq!((record.state(), error.kind()), (JobState::TimedOut, ErrorKind::DeadlineExceeded));
    let expected = format!(
        "deadline of 30 s exceeded in \"import\"; last checkpoint checkpoints.rs:{line} \"row 41200\" 12 s ago on imports-0"
    );
    assert_eq!(error.to_string(), expected);
    assert!(record.to_string().ends_with(&format!(": {expected}")), "{record}");
    // It does not go on counting.
    delegator.advance(Duration::from_secs(60));
    assert_eq!(error.to_string(), expected);
    let checkpoint = record.checkpoint().expect("it said so");
    assert_eq!((checkpoint.line(), checkpoint.age()), (line, Duration::from_secs(72)));
}

#[test]
fn progress_may_be_as_large_as_a_number() {
    let delegator = Delegator::manual();
    let job = Job::new("much", |ctx| {
        ctx.progress(u64::MAX, u64::MAX);
        Ok(Vec::new())
    });
    let progress = delegator.submit(job).unwrap().wait().progress().expect("it said so");
    assert_eq!(progress.total, u64::MAX);
}

#[test]
fn the_error_of_a_cancel_says_so_behind_its_cause() {
    let delegator = manual("imports");
    let (ctx, canceller) = Context::background().with_cancel();
    let cancels = Job::new("import", move |ctx: &Context| {
        ctx.checkpoint("row 1")?;
        canceller.cancel_with("superseded");
        ctx.check().map(|()| Vec::new())
    });
    let record = delegator.submit(cancels.with_context(&ctx)).unwrap().wait();
    let error = record.error().expect("cancelled");
    assert_eq!((record.state(), error.kind()), (JobState::Cancelled, ErrorKind::Cancelled));
    assert_eq!(error.get_ref().map(ToString::to_string).as_deref(), Some("superseded"));
    let text = error.to_string();
    assert!(text.starts_with("cancelled: superseded; last checkpoint checkpoints.rs:"), "{text}");
    assert!(text.ends_with(" \"row 1\" 0 µs ago in \"import\" on imports-0"), "{text}");
}

#[test]
fn without_a_checkpoint_the_error_is_as_short_as_ever() {
    let delegator = Delegator::manual();
    let nap = Job::new("nap", |ctx| {
        ctx.progress(1, 0);
        ctx.sleep(Duration::from_secs(60)).map(|()| Vec::new())
    });
    let record = delegator.submit(nap.with_timeout(Duration::from_secs(1))).unwrap().wait();
    assert_eq!(record.error().expect("late").to_string(), "deadline exceeded");
    assert_eq!(record.progress().expect("said").to_string(), "1");
}

#[test]
fn an_error_that_is_not_the_contexts_stays_what_it_is_and_the_line_says_where() {
    let log = CapturedLog::install();
    let delegator = Delegator::manual();
    let broken = Job::new("broken import", |ctx| {
        ctx.checkpoint("row 7")?;
        Err("no disk".into())
    });
    let panics = Job::new("panicking import", |ctx| {
        ctx.checkpoint("row 8\nof two lines")?;
        panic!("boom")
    });
    let broken = delegator.submit(broken).unwrap().wait();
    let panicked = delegator.submit(panics).unwrap().wait();
    assert_eq!(broken.error().expect("it failed").to_string(), "no disk");
    assert!(broken.to_string().contains(": no disk; last checkpoint checkpoints.rs:"), "{broken}");
    assert!(broken.to_string().ends_with(" \"row 7\" 0 µs ago"), "{broken}");
    assert_eq!(panicked.error().expect("it panicked").to_string(), "panicked: boom");
    assert_eq!(panicked.to_string().lines().count(), 1);
    for record in [broken, panicked] {
        assert_eq!(log.containing(&record.to_string()).len(), 1, "the line in the log is the same");
    }
}

#[test]
fn work_that_is_done_too_late_keeps_its_checkpoint() {
    let delegator = Delegator::manual();
    let stubborn = Job::new("stubborn", |ctx| {
        ctx.checkpoint("before")?;
        Context::background().sleep(Duration::from_secs(60))?;
        Ok(Vec::new())
    });
    let record = delegator.submit(stubborn.with_timeout(Duration::from_secs(1))).unwrap().wait();
    assert_eq!((record.state(), text(&record).as_deref()), (JobState::Completed, Some("before")));
    assert_eq!(record.overrun(), Some(Duration::from_secs(59)));
}

#[test]
fn a_context_that_is_done_takes_no_checkpoint() {
    let delegator = Delegator::manual();
    let late = Job::new("late", |ctx| {
        ctx.checkpoint("in time")?;
        let _ = ctx.sleep(Duration::from_secs(60));
        ctx.checkpoint("too late")?;
        Ok(Vec::new())
    });
    let record = delegator.submit(late.with_timeout(Duration::from_secs(1))).unwrap().wait();
    assert_eq!((record.state(), text(&record).as_deref()), (JobState::TimedOut, Some("in time")));
}

#[test]
fn a_job_has_nothing_of_what_the_one_before_it_said() {
    watchdog(|| {
        let delegator = delegator(1);
        let open = Gate::new();
        open.open();
        let first = delegator.submit(says("first", &Gate::new(), &open)).unwrap().wait();
        let (said, release) = (Gate::new(), Gate::new());
        let second = delegator.submit(common::gated("second", &said, &release)).unwrap();
        said.wait();
        assert_eq!((second.checkpoint(), second.progress()), (None, None));
        assert_eq!(delegator.workers()[0].checkpoint, None);
        release.open();
        let second = second.wait();
        assert_eq!((second.checkpoint(), second.progress()), (None, None));
        assert_eq!(text(&first).as_deref(), Some("first"));
    });
}

#[test]
fn a_record_and_the_memory_of_one_are_filled_again_without_notes() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(1).retain(Retention::last(4)).build().unwrap();
        for round in 0..1000_u64 {
            let job = if round % 2 == 0 {
                Job::new("speaks", |ctx| ctx.checkpoint("x").map(|()| Vec::new()))
            } else {
                Job::new("silent", |_| Ok(Vec::new()))
            };
            let record = delegator.submit(job).unwrap().wait();
            assert_eq!(record.checkpoint().is_some(), round % 2 == 0, "round {round}");
        }
    });
}

#[test]
fn a_context_that_is_kept_changes_nothing_after_its_job() {
    watchdog(|| {
        let delegator = delegator(1);
        let events = delegator.subscribe(1000);
        let (send, kept) = mpsc::channel();
        let send = Mutex::new(send);
        let gives = Job::new("gives its context away", move |ctx: &Context| {
            ctx.checkpoint("in the job")?;
            send.lock().unwrap().send(ctx.clone()).unwrap();
            Ok(Vec::new())
        });
        let silent = delegator.submit(Job::new("silent", |_| Ok(Vec::new()))).unwrap();
        let handle = delegator.submit(gives).unwrap();
        let record = handle.wait();
        let kept = kept.recv().unwrap();
        kept.checkpoint("after it").unwrap();
        kept.progress(1, 1);
        assert_eq!((text(&record).as_deref(), record.progress()), (Some("in the job"), None));
        assert_eq!(handle.progress(), None);

        // Nor does it meddle with the next one.
        let (said, release) = (Gate::new(), Gate::new());
        let next = delegator.submit(common::gated("next", &said, &release)).unwrap();
        said.wait();
        kept.checkpoint("during the next").unwrap();
        assert_eq!((next.checkpoint(), delegator.workers()[0].checkpoint.clone()), (None, None));
        release.open();
        next.wait();
        silent.wait();
        delegator.shutdown(Shutdown::drain());
        let checkpoints = events.iter().filter(|event| matches!(event, Event::Checkpoint { .. })).count();
        assert_eq!(checkpoints, 1);
        drop(delegator);
        kept.checkpoint("after everything").unwrap();
    });
}

#[test]
fn the_first_word_of_a_context_that_is_kept_comes_too_late_as_well() {
    watchdog(|| {
        let delegator = delegator(1);
        let (send, kept) = mpsc::channel();
        let send = Mutex::new(send);
        let gives = Job::new("gives its context away", move |ctx: &Context| {
            send.lock().unwrap().send(ctx.clone()).unwrap();
            Ok(Vec::new())
        });
        let record = delegator.submit(gives).unwrap().wait();
        let kept = kept.recv().unwrap();
        let busy = occupy(&delegator);
        kept.checkpoint("late").unwrap();
        kept.progress(1, 1);
        assert_eq!(
            (record.checkpoint(), busy.handle.checkpoint(), busy.handle.progress()),
            (None, None, None)
        );
    });
}

#[test]
fn derived_contexts_speak_for_the_job_on_any_thread() {
    watchdog(|| {
        let delegator = delegator(1);
        let job = Job::new("many hands", |ctx: &Context| {
            let (derived, _canceller) = ctx.with_value("n", 1).with_cancel();
            let derived = derived.with_timeout(PATIENCE);
            let helper = thread::spawn(move || derived.checkpoint("from a helper"));
            helper.join().expect("no panic")?;
            ctx.without_cancel().checkpoint("from nowhere")?;
            Ok(Vec::new())
        });
        let record = delegator.submit(job).unwrap().wait();
        assert_eq!(text(&record).as_deref(), Some("from a helper"));
    });
}

#[test]
fn outside_of_jobs_a_checkpoint_is_a_check() {
    let (ctx, canceller) = Context::background().with_cancel();
    ctx.checkpoint("nowhere").unwrap();
    ctx.progress(1, 2);
    canceller.cancel();
    assert!(ctx.checkpoint("nowhere").unwrap_err().is_cancelled());
    Context::background().checkpoint("nowhere").unwrap();
}

#[test]
fn jobs_below_one_context_and_jobs_below_a_job_have_notes_of_their_own() {
    watchdog(|| {
        let delegator = Arc::new(delegator(2));
        let (ctx, _canceller) = Context::background().with_cancel();
        let (said, release) = (Gate::new(), Gate::new());
        let one = delegator.submit(says("one", &said, &release).with_context(&ctx)).unwrap();
        let owner = Arc::downgrade(&delegator);
        let outer = Job::new("outer", move |ctx: &Context| {
            ctx.checkpoint("outer")?;
            let owner = owner.upgrade().ok_or("no delegator")?;
            let silent = yields("silent", "").with_context(ctx);
            let speaks = Job::new("inner", |ctx| ctx.checkpoint("inner").map(|()| Vec::new()));
            let silent = owner.submit(silent)?.wait();
            let inner = owner.submit(speaks.with_context(ctx))?.wait();
            assert_eq!((text(&silent), text(&inner).as_deref()), (None, Some("inner")));
            Ok(Vec::new())
        });
        said.wait();
        let outer = delegator.submit(outer.with_context(&ctx)).unwrap().wait();
        assert_eq!((outer.state(), text(&outer).as_deref()), (JobState::Completed, Some("outer")));
        release.open();
        assert_eq!(text(&one.wait()).as_deref(), Some("one"));
    });
}

#[test]
fn a_worker_shows_the_notes_of_the_innermost_job_and_a_report_those_of_all() {
    watchdog(|| {
        let delegator = Arc::new(delegator(1));
        let (said, release) = (Gate::new(), Gate::new());
        let inner: Arc<Mutex<Option<JobHandle>>> = Arc::default();
        let (owner, seen, gates) =
            (Arc::downgrade(&delegator), Arc::clone(&inner), (said.clone(), release.clone()));
        let outer = Job::new("outer", move |ctx: &Context| {
            ctx.checkpoint("waits")?;
            let submitter = owner.upgrade().ok_or("no delegator")?.submitter();
            let handle = submitter.submit(says("inside", &gates.0, &gates.1))?;
            *seen.lock().unwrap() = Some(handle.clone());
            Ok(handle.wait().payload().map(<[u8]>::to_vec).unwrap_or_default())
        });
        let outer = delegator.submit(outer).unwrap();
        said.wait();
        let inner = inner.lock().unwrap().clone().expect("submitted");
        let worker = delegator.workers().remove(0);
        assert_eq!(worker.running, Some(inner.id()));
        assert_eq!(worker.checkpoint.as_ref().map(|last| last.text()), Some("inside"));
        assert_eq!(outer.checkpoint().as_ref().map(|last| last.text()), Some("waits"));

        let report = delegator.shutdown(Shutdown::cancel().within(Duration::ZERO));
        let stuck: Vec<_> = report
            .stuck
            .iter()
            .map(|job| (job.job_name.as_deref(), job.checkpoint.as_ref().map(|last| last.text())))
            .collect();
        assert_eq!(stuck, [(Some("outer"), Some("waits")), (Some("says"), Some("inside"))]);
        release.open();
        assert_eq!(text(&outer.wait()).as_deref(), Some("waits"));
        assert_eq!(text(&inner.wait()).as_deref(), Some("inside"));
    });
}

#[test]
fn a_worker_that_is_late_says_by_how_much() {
    watchdog(|| {
        let delegator = delegator(1);
        let (said, release) = (Gate::new(), Gate::new());
        let deaf = common::gated("deaf", &said, &release).with_timeout(BRIEF);
        let handle = delegator.submit(deaf).unwrap();
        eventually("it is late", || {
            let worker = delegator.workers().remove(0);
            assert!(worker.running == Some(handle.id()) || worker.overdue.is_none());
            worker.overdue.is_some() && worker.overdue < worker.running_for
        });
        release.open();
        handle.wait();
        assert_eq!(delegator.workers()[0].overdue, None);
    });
}

#[test]
fn checkpoints_are_told_between_start_and_end() {
    watchdog(|| {
        let delegator = delegator(2);
        let events = delegator.subscribe(100_000);
        let handles: Vec<_> = (0..200)
            .map(|_| {
                let job = Job::new("counts", |ctx: &Context| {
                    for n in 0..5 {
                        ctx.checkpoint(n.to_string())?;
                    }
                    let last = ctx.clone();
                    // Takes its time: it may be too late.
                    thread::spawn(move || last.checkpoint("5"));
                    Ok(Vec::new())
                });
                delegator.submit(job).unwrap()
            })
            .collect();
        delegator.shutdown(Shutdown::drain());
        let events: Vec<_> = events.iter().collect();
        for handle in handles {
            let record = handle.wait();
            let mut told = Vec::new();
            for event in &events {
                match event {
                    Event::Started { id, .. } if *id == handle.id() => told.push("started".to_owned()),
                    Event::Checkpoint { id, name, worker, checkpoint, .. } if *id == handle.id() => {
                        assert_eq!((&**name, Some(*worker)), ("counts", record.worker()));
                        told.push(checkpoint.text().to_owned());
                    }
                    Event::Finished(record) if record.id() == handle.id() => told.push("finished".to_owned()),
                    _ => {}
                }
            }
            let last = text(&record).expect("it said something");
            let expected = ["started", "0", "1", "2", "3", "4", "5", "finished"];
            let mut expected = expected.map(str::to_owned).to_vec();
            if last == "4" {
                expected.remove(6);
            }
            assert_eq!(told, expected);
        }
    });
}

#[test]
fn texts_count_towards_the_bytes_that_are_kept() {
    let retention = Retention::last(100).max_bytes(100);
    let delegator = Delegator::builder().retain(retention).manual().unwrap();
    let says = |length: usize| {
        Job::new("says", move |ctx: &Context| {
            ctx.checkpoint("x".repeat(length))?;
            Ok(vec![0; 10])
        })
    };
    for _ in 0..10 {
        let _ = delegator.submit(says(15)).unwrap();
    }
    delegator.run_until_idle();
    assert_eq!(delegator.registry().len(), 4);
    let large = delegator.submit(says(91)).unwrap().wait();
    assert!(delegator.registry().get(large.id()).is_none());
    assert_eq!(text(&large).map(|text| text.len()), Some(91));
    delegator.registry().clear();
    let _ = delegator.submit(says(90)).unwrap().wait();
    assert_eq!(delegator.registry().len(), 1);
}

#[test]
fn whoever_watches_sees_it_go_forward_and_never_away() {
    watchdog(|| {
        let delegator = delegator(2);
        for _ in 0..300 {
            let counts = Job::new("counts", |ctx| {
                for n in 1..=20_u64 {
                    ctx.checkpoint(n.to_string())?;
                    ctx.progress(n, 20);
                }
                Ok(Vec::new())
            });
            let handle = delegator.submit(counts).unwrap();
            let (mut last, mut done) = (0, 0);
            loop {
                let is_finished = handle.is_finished();
                let text = handle.checkpoint().map_or(0, |checkpoint| checkpoint.text().parse().unwrap());
                let progress = handle.progress().map_or(0, |progress| progress.done);
                assert!(last <= text && done <= progress, "{last} -> {text}, {done} -> {progress}");
                (last, done) = (text, progress);
                if is_finished {
                    break;
                }
            }
            assert_eq!((last, done), (20, 20));
        }
    });
}

#[test]
fn records_from_a_set_have_them_too() {
    watchdog(|| {
        let delegator = delegator(1);
        let mut set = delegator.job_set();
        for text in ["one", "two"] {
            set.submit(Job::new(text, move |ctx| ctx.checkpoint(text).map(|()| Vec::new()))).unwrap();
        }
        let records = set.wait_all();
        assert_eq!(records.len(), 2);
        assert!(records.iter().all(|record| text(record).as_deref() == Some(record.name())));
    });
}

#[test]
fn a_job_that_never_starts_has_said_nothing() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let queued = delegator.submit(says("never", &Gate::new(), &Gate::new())).unwrap();
        assert_eq!((queued.checkpoint(), queued.progress()), (None, None));
        assert!(queued.cancel());
        assert_eq!((queued.checkpoint(), queued.wait().checkpoint()), (None, None));
        busy.release();
    });
}
