//! Jobs that go on though their context has ended: who is told, when, and what goes on meanwhile.

mod common;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use common::{FOREVER, Gate, PATIENCE, eventually, gated, watchdog, yields};
use crossbeam_channel::Receiver;
use log::{Level, LevelFilter, Log, Metadata, Record};
use workpath::{Builder, Context, Delegator, Event, Job, JobHandle, JobId, JobState, Shutdown};

/// Keeps the lines, and hangs on one about a job called "hangs the logger" until the gate opens.
#[derive(Default)]
struct Recorder {
    lines: Mutex<Vec<(Level, String)>>,
    gate: Gate,
}

impl Log for Recorder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.args().to_string();
        let hangs = line.contains("\"hangs the logger\" is stuck");
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push((record.level(), line));
        if hangs {
            self.gate.wait();
        }
    }

    fn flush(&self) {}
}

fn recorder() -> &'static Recorder {
    static RECORDER: OnceLock<Recorder> = OnceLock::new();
    let recorder = RECORDER.get_or_init(Recorder::default);
    // Every test but the first finds it there.
    let _ = log::set_logger(recorder);
    log::set_max_level(LevelFilter::Trace);
    recorder
}

/// The lines that call this job stuck.
fn lines(job: JobId) -> Vec<(Level, String)> {
    let lines = recorder().lines.lock().unwrap_or_else(PoisonError::into_inner);
    let about = format!("job {job} ");
    lines
        .iter()
        .filter(|(_, line)| line.starts_with(&about) && line.contains(" is stuck on "))
        .cloned()
        .collect()
}

fn builder(workers: usize, margin: Duration) -> Builder {
    recorder();
    Delegator::builder().workers(workers).queue_capacity(64).stuck_after(margin)
}

/// Waits for the next report, and gives the job, the worker and how late it is.
#[track_caller]
fn report(events: &Receiver<Event>) -> (JobId, usize, Duration) {
    loop {
        if let Event::Stuck { id, worker, overdue, .. } = events.recv_timeout(PATIENCE).expect("a report") {
            return (id, worker, overdue);
        }
    }
}

/// The jobs that were reported so far.
fn reported(events: &Receiver<Event>) -> Vec<JobId> {
    let stuck = events.try_iter().filter_map(|event| match event {
        Event::Stuck { id, .. } => Some(id),
        _ => None,
    });
    stuck.collect()
}

const MARGIN: Duration = Duration::from_millis(30);
const SECOND: Duration = Duration::from_secs(1);

/// A job that sleeps so long whatever its context says.
fn deaf(name: &'static str, time: Duration) -> Job {
    Job::new(name, move |_| Context::background().sleep(time).map(|()| Vec::new()))
}

/// A job that hears nothing until it is released, and has started.
fn start_deaf(delegator: &Delegator, job: impl Fn(Job) -> Job) -> (JobHandle, Gate) {
    loop {
        let (started, release) = (Gate::new(), Gate::new());
        let handle = delegator.submit(job(gated("deaf", &started, &release))).expect("room");
        while !handle.is_finished() {
            if started.wait_timeout(Duration::from_millis(1)) {
                return (handle, release);
            }
        }
        // Its deadline has passed in the queue.
    }
}

#[test]
fn a_job_that_ignores_its_deadline_is_reported_once_and_counts_while_it_goes_on() {
    watchdog(|| {
        let delegator = builder(2, MARGIN).build().unwrap();
        let events = delegator.subscribe(1000);
        let (stuck, release) = start_deaf(&delegator, |job| job.with_timeout(MARGIN));
        let (id, worker, overdue) = report(&events);
        assert_eq!(id, stuck.id());
        assert!(overdue >= MARGIN);
        assert_eq!((delegator.stats().stuck, delegator.stats().running), (1, 1));
        let flags: Vec<_> = delegator.workers().iter().map(|worker| worker.stuck).collect();
        assert_eq!(flags, [worker == 0, worker == 1]);
        eventually("there is a line", || !lines(id).is_empty());

        // The next look does not tell it again.
        let (other, release_other) = start_deaf(&delegator, |job| job.with_timeout(MARGIN));
        assert_eq!(report(&events).0, other.id());
        assert_eq!(delegator.stats().stuck, 2);
        release.open();
        release_other.open();
        assert_eq!(stuck.wait().state(), JobState::Completed);
        other.wait();
        assert_eq!(delegator.stats().stuck, 0);
        assert!(delegator.workers().iter().all(|worker| !worker.stuck));
        assert_eq!((reported(&events), lines(id).len()), (Vec::new(), 1));
    });
}

#[test]
fn the_line_says_what_and_where_and_for_how_long() {
    recorder();
    let delegator = Delegator::manual();
    let events = delegator.subscribe(100);
    let line = line!() + 2;
    let job = Job::new("import", |ctx| {
        ctx.checkpoint("row 41200")?;
        Context::background().sleep(FOREVER).map(|()| Vec::new())
    });
    let handle = delegator.submit(job.with_timeout(30 * SECOND)).unwrap();
    delegator.run_until_idle();
    let expected = format!(
        "job {} \"import\" is stuck on workpath-0: its deadline was 10 s ago, it runs for 40 s; last checkpoint stuck.rs:{line} \"row 41200\" 40 s ago",
        handle.id()
    );
    assert_eq!(lines(handle.id()), [(Level::Warn, expected)]);
    let told = events.try_iter().find_map(|event| match event {
        Event::Stuck { id, name, worker, overdue, checkpoint, .. } => {
            Some((id, name, worker, overdue, checkpoint))
        }
        _ => None,
    });
    let checkpoint = handle.checkpoint();
    assert!(checkpoint.is_some());
    assert_eq!(told, Some((handle.id(), "import".into(), 0, 10 * SECOND, checkpoint)));
}

#[test]
fn who_stops_within_the_margin_or_has_no_end_is_not_reported() {
    let delegator = Delegator::manual();
    let events = delegator.subscribe(100);
    let late = delegator.submit(deaf("late", 39 * SECOND).with_timeout(30 * SECOND)).unwrap();
    delegator.run_until_idle();
    assert_eq!(late.wait().overrun(), Some(9 * SECOND));
    let _ = delegator.submit(deaf("endless", FOREVER)).unwrap();
    let obedient = Job::new("obedient", |ctx| ctx.sleep(FOREVER).map(|()| Vec::new()));
    let _ = delegator.submit(obedient.with_timeout(SECOND)).unwrap();
    delegator.advance(100 * SECOND);
    assert_eq!(reported(&events), []);
}

#[test]
fn a_margin_without_end_turns_it_off() {
    let delegator = Delegator::builder().stuck_after(Duration::MAX).manual().unwrap();
    let events = delegator.subscribe(100);
    let late = delegator.submit(deaf("late", FOREVER).with_timeout(SECOND)).unwrap();
    delegator.run_until_idle();
    assert_eq!((late.wait().state(), reported(&events)), (JobState::Completed, Vec::new()));
}

#[test]
fn advancing_the_clock_past_the_margin_of_a_job_inside_another_reports_both() {
    let delegator = Delegator::manual();
    let events = delegator.subscribe(100);
    let submitter = delegator.submitter();
    let outer = Job::new("outer", move |_| {
        let inner = submitter.submit(deaf("inner", 60 * SECOND).with_timeout(20 * SECOND))?;
        Ok(inner.wait().id().to_string().into_bytes())
    });
    let outer = delegator.submit(outer.with_timeout(SECOND)).unwrap();
    delegator.advance(100 * SECOND);
    let inner = String::from_utf8(outer.wait().payload().unwrap().to_vec()).unwrap();
    let told: Vec<_> = reported(&events).iter().map(ToString::to_string).collect();
    assert_eq!(told, [outer.id().to_string(), inner]);
    assert_eq!(delegator.stats().stuck, 0);
}

#[test]
fn every_way_to_cancel_starts_the_margin() {
    watchdog(|| {
        type Cancel = fn(&Delegator) -> (JobHandle, Gate);
        let ways: [(&str, Cancel); 5] = [
            ("handle", |delegator| {
                let (handle, release) = start_deaf(delegator, |job| job);
                assert!(handle.cancel());
                (handle, release)
            }),
            ("context", |delegator| {
                let (ctx, canceller) = Context::background().with_cancel();
                let (handle, release) = start_deaf(delegator, |job| job.with_context(&ctx));
                canceller.cancel();
                (handle, release)
            }),
            ("context far above", |delegator| {
                let (ctx, canceller) = Context::background().with_cancel();
                let below = ctx.with_cancel().0.with_value("n", 1).with_cancel().0;
                // Not the first job below it.
                let _ = delegator.submit(yields("first", "").with_context(&below)).unwrap().wait();
                let (handle, release) = start_deaf(delegator, |job| job.with_context(&below));
                canceller.cancel();
                (handle, release)
            }),
            ("context, far from its deadline", |delegator| {
                let (ctx, canceller) = Context::background().with_timeout(FOREVER).with_cancel();
                let (handle, release) = start_deaf(delegator, |job| job.with_context(&ctx));
                canceller.cancel();
                (handle, release)
            }),
            ("shutdown", |delegator| {
                let (handle, release) = start_deaf(delegator, |job| job);
                std::thread::scope(|scope| {
                    let shutdown = scope.spawn(|| delegator.shutdown(Shutdown::cancel()));
                    eventually("it is stuck", || delegator.stats().stuck == 1);
                    release.open();
                    assert_eq!(shutdown.join().unwrap().total(), 1);
                });
                (handle, release)
            }),
        ];
        for (way, cancel) in ways {
            let delegator = builder(1, MARGIN).build().unwrap();
            let events = delegator.subscribe(1000);
            let (handle, release) = cancel(&delegator);
            assert_eq!(report(&events).0, handle.id(), "{way}");
            eventually(way, || !lines(handle.id()).is_empty());
            let (level, line) = lines(handle.id()).remove(0);
            assert!(level == Level::Warn && line.contains(": it was cancelled "), "{way}: {line}");
            release.open();
            handle.wait();
        }
    });
}

#[test]
fn a_set_and_a_job_that_cancel_what_is_below_them_start_the_margin() {
    watchdog(|| {
        let delegator = builder(2, MARGIN).build().unwrap();
        let events = delegator.subscribe(1000);
        let (started, release) = (Gate::new(), Gate::new());
        let mut set = delegator.job_set();
        let member = set.submit(gated("member", &started, &release)).unwrap();
        started.wait();
        set.cancel();
        assert_eq!(report(&events).0, member);
        release.open();
        set.wait_all();

        // On another delegator, below a job of this one.
        let other = Arc::new(builder(1, MARGIN).build().unwrap());
        let others = other.subscribe(1000);
        let (started, release) = (Gate::new(), Gate::new());
        let (submitter, gates) = (other.submitter(), (started.clone(), release.clone()));
        let outer = Job::new("outer", move |ctx| {
            let inner = submitter.submit(gated("inner", &gates.0, &gates.1).with_context(ctx))?;
            Ok(inner.wait().id().to_string().into_bytes())
        });
        let outer = delegator.submit(outer).unwrap();
        started.wait();
        assert!(outer.cancel());
        let inner = report(&others).0;
        release.open();
        assert_eq!(outer.wait().payload(), Some(inner.to_string().as_bytes()));
    });
}

#[test]
fn later_margins_are_looked_after_when_earlier_ones_are_over() {
    watchdog(|| {
        let delegator = builder(3, MARGIN).build().unwrap();
        let events = delegator.subscribe(1000);
        let first = start_deaf(&delegator, |job| job.with_timeout(3 * MARGIN));
        let second = start_deaf(&delegator, |job| job.with_timeout(MARGIN));
        let third = start_deaf(&delegator, |job| job.with_timeout(6 * MARGIN));
        for (handle, _) in [&second, &first, &third] {
            assert_eq!(report(&events).0, handle.id());
        }
        for (handle, release) in [first, second, third] {
            release.open();
            handle.wait();
        }
        // And after a time with nothing to look after.
        std::thread::sleep(2 * MARGIN);
        let (late, release) = start_deaf(&delegator, |job| job.with_timeout(MARGIN));
        assert_eq!(report(&events).0, late.id());
        release.open();
    });
}

#[test]
fn a_logger_that_hangs_holds_nothing_up() {
    watchdog(|| {
        let delegator = builder(2, MARGIN).build().unwrap();
        let events = delegator.subscribe(1000);
        let release = Gate::new();
        let started = Gate::new();
        let hangs = delegator.submit(gated("hangs the logger", &started, &release)).unwrap();
        started.wait();
        assert!(hangs.cancel());
        assert_eq!(report(&events).0, hangs.id());
        eventually("the logger hangs", || !lines(hangs.id()).is_empty());
        // The delegator's thread is needed for this one.
        let later = delegator.submit(yields("later", "x").with_delay(MARGIN)).unwrap();
        assert_eq!(later.join().unwrap(), b"x");
        let (next, also) = start_deaf(&delegator, |job| job.with_timeout(MARGIN));
        assert_eq!(report(&events).0, next.id());
        also.open();
        release.open();
        assert!(delegator.shutdown(Shutdown::drain()).stuck.is_empty());
        recorder().gate.open();
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_stream_of_jobs_with_deadlines_leaves_the_delegator_thread_asleep() {
    fn switches(thread: &str) -> u64 {
        let tasks = std::fs::read_dir("/proc/self/task").expect("the list of threads").flatten();
        let statuses = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
        let status = { statuses }
            .find(|status| status.starts_with(&format!("Name:\t{thread}\n")))
            .expect("the thread is there");
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.and_then(|count| count.trim().parse().ok()).expect("a number")
    }

    watchdog(|| {
        let delegator = builder(2, 10 * SECOND).thread_name("asleep").build().unwrap();
        let _ = delegator.submit(yields("first", "").with_timeout(30 * SECOND)).unwrap().wait();
        std::thread::sleep(MARGIN);
        let before = switches("asleep-d");
        for _ in 0..3000 {
            let _ = delegator.submit(yields("work", "").with_timeout(30 * SECOND)).unwrap();
        }
        delegator.wait_idle();
        // It may have been about to fall asleep, and cancels of other tests wake it.
        assert!(switches("asleep-d") < before + 300, "it woke up {before} -> {}", switches("asleep-d"));
    });
}
