//! What goes to the log, and a log that behaves badly. A process of its own, because there is one logger in a process.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::fmt;
use std::panic::panic_any;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use common::{Counter, Gate, PanicOnDrop, delegator, fails, occupy, panics, watchdog, yields};
use log::{Level, LevelFilter, Log, Metadata, Record};
use pool::{assert_balanced, keeps, obedient, own_name, sized};
use workpath::{Context, Delegator, Error, Job, JobHandle, JobState, Shutdown};

/// A line in the log.
#[derive(Clone, Debug)]
struct Line {
    level: Level,
    target: String,
    text: String,
    thread: ThreadId,
}

/// What a test wants to be done when a line contains its text.
type Reaction = Arc<dyn Fn(&Line) + Send + Sync>;

/// A logger that keeps all lines and does as it is told.
#[derive(Default)]
struct Recorder {
    lines: Mutex<Vec<Line>>,
    reactions: Mutex<Vec<(String, Reaction)>>,
}

impl Log for Recorder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        let spoiled = thread::current().name().is_some_and(|name| name.starts_with("cannot-log"));
        assert!(!spoiled || thread::panicking(), "this thread cannot even ask");
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = Line {
            level: record.level(),
            target: record.target().to_owned(),
            text: record.args().to_string(),
            thread: thread::current().id(),
        };
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
        let reactions: Vec<Reaction> = {
            let reactions = self.reactions.lock().unwrap_or_else(PoisonError::into_inner);
            reactions
                .iter()
                .filter(|(text, _)| line.text.contains(text))
                .map(|(_, act)| Arc::clone(act))
                .collect()
        };
        for act in reactions {
            act(&line);
        }
    }

    fn flush(&self) {}
}

/// The logger of this process.
fn recorder() -> &'static Recorder {
    static RECORDER: OnceLock<&'static Recorder> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let recorder: &'static Recorder = Box::leak(Box::default());
        log::set_logger(recorder).expect("no other logger");
        log::set_max_level(LevelFilter::Trace);
        recorder
    })
}

/// The lines about one job so far.
fn lines_about(handle: &JobHandle) -> Vec<Line> {
    lines_with(&handle.id().to_string())
}

fn lines_with(text: &str) -> Vec<Line> {
    let lines = recorder().lines.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().filter(|line| line.text.contains(text)).cloned().collect()
}

/// Waits until there is a line about a job at that level, and returns the first.
#[track_caller]
fn line_about(handle: &JobHandle, level: Level) -> Line {
    let mut found = None;
    common::eventually("there is a line about the job", || {
        found = lines_about(handle).into_iter().find(|line| line.level == level);
        found.is_some()
    });
    found.expect("found")
}

/// From now on `act` runs whenever a line contains `text`.
fn react(text: &str, act: impl Fn(&Line) + Send + Sync + 'static) {
    let mut reactions = recorder().reactions.lock().unwrap_or_else(PoisonError::into_inner);
    reactions.push((text.to_owned(), Arc::new(act)));
}

/// Checks that a line has what it must have.
#[track_caller]
fn assert_tells(line: &Line, handle: &JobHandle, rest: &[&str]) {
    assert_eq!(line.target, "workpath");
    let id = handle.id().to_string();
    let state = handle.state().to_string();
    for part in [&*id, handle.name(), &*state].iter().chain(rest) {
        assert!(line.text.contains(part), "{part:?} is missing in {:?}", line.text);
    }
    assert_eq!(line.text.lines().count(), 1, "one line: {:?}", line.text);
}

#[test]
fn a_job_that_ends_well_is_worth_a_debug_line() {
    recorder();
    watchdog(|| {
        let delegator = Delegator::builder().workers(1).thread_name("scribe").build().unwrap();
        let handle = delegator.submit(yields("ends-well", "bytes")).expect("room");
        let record = handle.wait();
        let line = line_about(&handle, Level::Debug);
        assert_tells(&line, &handle, &["completed"]);
        assert!(line.text.contains(&record.to_string()), "{:?} is not {:?}", line.text, record.to_string());
        delegator.shutdown(Shutdown::drain());
        let lines = lines_about(&handle);
        assert!(lines.iter().all(|line| line.level >= Level::Debug), "{lines:?}");
        assert_eq!(lines.iter().filter(|line| line.level == Level::Debug).count(), 1, "{lines:?}");
    });
}

#[test]
fn a_line_tells_who_ran_the_job_and_how_long_it_took() {
    recorder();
    watchdog(|| {
        let delegator = Delegator::builder().workers(8).build().unwrap();
        // The line names the worker: with another one it would read differently.
        let busy: Vec<_> = (0..7).map(|_| occupy(&delegator)).collect();
        let handle = delegator.submit(yields("with-times", "")).expect("room");
        let record = handle.wait();
        let line = line_about(&handle, Level::Debug);
        let worker = record.worker().expect("ran").to_string();
        let without_id = line.text.replace(&handle.id().to_string(), "");
        assert!(
            without_id.to_lowercase().contains("worker") || without_id.contains(&format!("-{worker}")),
            "{without_id}"
        );
        assert!(without_id.contains(&worker), "{without_id}");
        let times = [record.run_time(), record.round_trip_time()];
        let digits = without_id.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty()).count();
        assert!(digits > times.len(), "a worker and two times: {without_id}");
        drop(busy);
    });
}

#[test]
fn every_other_end_is_worth_a_warning_and_a_panic_an_error() {
    recorder();
    watchdog(|| {
        let delegator = sized(1, 16);
        let busy = occupy(&delegator);
        let (ctx, canceller) = Context::background().with_cancel();
        let jobs = [
            (fails("w-failed", "the reason of the failure"), Level::Warn, "the reason of the failure"),
            (yields("w-cancelled", ""), Level::Warn, "changed my mind"),
            (yields("w-stopped", "").with_context(&ctx), Level::Warn, "from above"),
            (yields("w-late", "").with_timeout(Duration::from_millis(1)), Level::Warn, ""),
            (panics("w-panicked", "the reason of the panic"), Level::Error, "the reason of the panic"),
        ];
        let submitted = jobs.map(|(job, level, text)| (delegator.submit(job).expect("room"), level, text));
        assert!(submitted[1].0.cancel_with("changed my mind"));
        canceller.cancel_with("from above");
        assert_eq!(submitted[2].0.wait().state(), JobState::Cancelled);
        assert_eq!(submitted[3].0.wait().state(), JobState::TimedOut);
        busy.release();
        for (handle, level, text) in &submitted {
            handle.wait();
            let line = line_about(handle, *level);
            if *level == Level::Error {
                // Written at once, perhaps before the job has its last state.
                assert!(line.text.contains(handle.name()) && line.text.contains(text), "{line:?}");
                assert_eq!(line.target, "workpath");
            } else {
                assert_tells(&line, handle, &[text]);
            }
        }
        delegator.shutdown(Shutdown::drain());
        for (handle, level, _) in &submitted {
            let lines = lines_about(handle);
            assert_eq!(lines.iter().map(|line| line.level).min(), Some(*level), "{lines:?}");
            assert!(lines.len() <= 2, "{lines:?}");
        }
    });
}

/// Runs a job that goes on after its deadline and ends well.
fn overrun(delegator: &Delegator, name: &'static str, payload: &'static str) -> JobHandle {
    let mut limit = Duration::from_millis(20);
    loop {
        let job = Job::new(name, move |ctx| {
            let _over = ctx.sleep(common::FOREVER);
            Ok(payload.as_bytes().to_vec())
        });
        let handle = delegator.submit(job.with_timeout(limit)).expect("room");
        // On a busy machine the deadline may come before the start.
        if handle.wait().started_at().is_some() {
            return handle;
        }
        limit *= 4;
    }
}

#[test]
fn a_job_that_overran_its_deadline_is_worth_a_warning() {
    recorder();
    watchdog(|| {
        let delegator = delegator(1);
        let handle = overrun(&delegator, "overruns", "late but good");
        let record = handle.wait();
        assert_eq!(record.state(), JobState::Completed);
        assert!(record.overrun().is_some());
        assert_tells(&line_about(&handle, Level::Warn), &handle, &[]);
    });
}

#[test]
fn jobs_that_never_ran_are_in_the_log_too() {
    recorder();
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let stillborn =
            delegator.submit(yields("n-stillborn", "").with_timeout(Duration::ZERO)).expect("accepted");
        assert_tells(&line_about(&stillborn, Level::Warn), &stillborn, &[]);
        let unstarted = delegator.submit(yields("n-unstarted", "")).expect("room");
        drop(delegator.shutdown(Shutdown::cancel().within(Duration::ZERO)));
        assert_tells(&line_about(&unstarted, Level::Warn), &unstarted, &[]);
        busy.release();
    });
}

#[test]
fn the_payload_never_goes_to_the_log() {
    recorder();
    watchdog(|| {
        let delegator = delegator(1);
        let secret = "attack at dawn";
        let as_numbers = format!("{:?}", secret.as_bytes());
        let as_hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        let handles = [
            delegator.submit(yields("courier", secret)).expect("room"),
            overrun(&delegator, "late-courier", secret),
        ];
        for handle in &handles {
            assert_eq!(handle.wait().payload(), Some(secret.as_bytes()));
            line_about(handle, if handle.name() == "courier" { Level::Debug } else { Level::Warn });
        }
        delegator.shutdown(Shutdown::drain());
        let middle = as_numbers.trim_matches(|c| c == '[' || c == ']');
        for text in [secret, middle, &as_hex] {
            assert!(lines_with(text).is_empty());
        }
    });
}

#[test]
fn a_panic_in_a_destructor_a_hook_or_a_callback_is_in_the_log() {
    recorder();
    watchdog(|| {
        let name = own_name();
        let delegator = Delegator::builder()
            .workers(1)
            .queue_capacity(8)
            .thread_name(name.as_str())
            .on_worker_start(|_| panic!("p-start-hook"))
            .on_worker_stop(|_| panic!("p-stop-hook"))
            .build()
            .unwrap();
        let untidy = delegator.submit(keeps("p-untidy", PanicOnDrop("p-destructor"))).expect("room");
        assert_eq!(untidy.wait().state(), JobState::Completed);
        let (ctx, canceller) = Context::background().with_cancel();
        let _registered = ctx.on_done(|| panic!("p-callback"));
        canceller.cancel();
        delegator.shutdown(Shutdown::drain());
        for text in ["p-destructor", "p-start-hook", "p-stop-hook", "p-callback"] {
            let lines = lines_with(text);
            assert!(!lines.is_empty(), "nothing about {text}");
            assert!(
                lines.iter().all(|line| line.level == Level::Error && line.target == "workpath"),
                "{lines:?}"
            );
        }
    });
}

#[test]
fn a_panic_is_in_the_log_before_anybody_who_waits_wakes_up() {
    recorder();
    watchdog(|| {
        let delegator = delegator(1);
        for n in 0..50 {
            let handle = delegator.submit(Job::new("at-once", move |_| panic_any(n))).expect("room");
            handle.wait();
            assert!(lines_about(&handle).iter().any(|line| line.level == Level::Error));
        }
    });
}

#[test]
fn a_logger_may_submit_jobs() {
    recorder();
    watchdog(|| {
        for capacity in [0, 1, 8] {
            let delegator = sized(1, capacity);
            let (submitter, ran) = (delegator.submitter(), Counter::new());
            let marker = format!("submits-from-the-log-{capacity}");
            react(&marker, {
                let ran = ran.clone();
                move |_| {
                    let ran = ran.clone();
                    let job = Job::new("from-the-log", move |_| {
                        ran.add();
                        Ok(Vec::new())
                    });
                    let _handle = submitter.submit(job);
                }
            });
            let handle = delegator.submit(Job::new(marker, |_| Ok(Vec::new()))).expect("room");
            assert_eq!(handle.wait().state(), JobState::Completed);
            ran.wait_for(1);
            delegator.wait_idle();
            assert_balanced(&delegator.stats());
        }
    });
}

#[test]
fn a_logger_may_submit_a_job_and_wait_for_it() {
    recorder();
    watchdog(|| {
        let delegator = sized(1, 4);
        let (submitter, waited) = (delegator.submitter(), Gate::new());
        react("waits-in-the-log", {
            let waited = waited.clone();
            move |_| {
                if let Ok(handle) = submitter.submit(yields("awaited-by-the-log", "")) {
                    assert_eq!(handle.wait().state(), JobState::Completed);
                    waited.open();
                }
            }
        });
        let handle = delegator.submit(yields("waits-in-the-log", "")).expect("room");
        waited.wait();
        assert_eq!(handle.wait().state(), JobState::Completed);
    });
}

#[test]
fn a_logger_may_look_at_everything() {
    recorder();
    watchdog(|| {
        let delegator = Arc::new(sized(1, 8));
        let looked = Counter::new();
        react("looks-around", {
            let (delegator, looked) = (Arc::downgrade(&delegator), looked.clone());
            move |line| {
                let Some(delegator) = delegator.upgrade() else {
                    return;
                };
                let _numbers =
                    (delegator.stats(), delegator.workers(), delegator.wait_idle_timeout(Duration::ZERO));
                let records = delegator.registry().records();
                assert!(records.iter().all(|record| record.state().is_finished()));
                let _texts = format!("{delegator:?} {records:?} {line:?}");
                looked.add();
            }
        });
        let busy = occupy(&delegator);
        let jobs = [yields("looks-around", ""), fails("looks-around", "no"), panics("looks-around", "no")];
        let handles = jobs.map(|job| delegator.submit(job).expect("room"));
        // In cancel() it is the thread that cancels which writes the line.
        let cancelled = delegator.submit(yields("looks-around", "")).expect("room");
        assert!(cancelled.cancel());
        busy.release();
        assert!(handles.iter().all(|handle| handle.wait().state().is_finished()));
        looked.wait_for(4);
        delegator.wait_idle();
    });
}

#[test]
fn a_logger_that_panics_hurts_nobody() {
    recorder();
    watchdog(|| {
        react("spoils-the-log", |line| {
            // While a thread unwinds a second panic would end the process.
            if !thread::panicking() {
                panic!("the logger cannot write {:?}", line.level);
            }
        });
        let delegator = Arc::new(sized(1, 16));
        let busy = occupy(&delegator);
        let (ctx, canceller) = Context::background().with_cancel();
        let jobs = [
            (yields("spoils-the-log", "bytes"), JobState::Completed),
            (fails("spoils-the-log", "no"), JobState::Failed),
            (panics("spoils-the-log", "no"), JobState::Panicked),
            (keeps("spoils-the-log", PanicOnDrop("spoils-the-log")), JobState::Completed),
            (yields("spoils-the-log", "").with_context(&ctx), JobState::Cancelled),
            (yields("spoils-the-log", ""), JobState::Cancelled),
        ];
        let submitted = jobs.map(|(job, state)| (delegator.submit(job).expect("room"), state));
        assert!(submitted[5].0.cancel());
        canceller.cancel();
        assert!(submitted[4].0.wait().state().is_finished());
        busy.release();
        for (handle, state) in &submitted {
            assert_eq!(handle.wait().state(), *state);
        }
        let stillborn = yields("spoils-the-log", "").with_timeout(Duration::ZERO);
        assert_eq!(delegator.submit(stillborn).expect("accepted").state(), JobState::TimedOut);
        let record = delegator.submit(yields("after", "fine")).expect("room").wait();
        assert_eq!((record.worker(), record.payload()), (Some(0), Some(&b"fine"[..])));

        let busy = occupy(&delegator);
        let unstarted = delegator.submit(yields("spoils-the-log", "")).expect("room");
        let closing = thread::spawn({
            let delegator = Arc::clone(&delegator);
            move || delegator.shutdown(Shutdown::cancel())
        });
        assert_eq!(unstarted.wait().state(), JobState::Cancelled);
        busy.release();
        assert_eq!(closing.join().expect("a shutdown must not unwind").unstarted.len(), 1);
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn a_logger_that_panics_when_it_is_asked_hurts_nobody() {
    recorder();
    watchdog(|| {
        let delegator = Delegator::builder()
            .workers(1)
            .queue_capacity(16)
            .thread_name("cannot-log")
            .on_worker_start(|_| panic!("e-start-hook"))
            .on_worker_stop(|_| panic!("e-stop-hook"))
            .build()
            .unwrap();
        let (ctx, canceller) = Context::background().with_cancel();
        let busy = occupy(&delegator);
        let jobs = [
            (yields("e-good", "bytes"), JobState::Completed),
            (fails("e-bad", "no"), JobState::Failed),
            (panics("e-ugly", "no"), JobState::Panicked),
            (keeps("e-untidy", PanicOnDrop("e-untidy")), JobState::Completed),
            (yields("e-stopped", "").with_context(&ctx), JobState::Cancelled),
        ];
        let submitted = jobs.map(|(job, state)| (delegator.submit(job).expect("room"), state));
        canceller.cancel();
        busy.release();
        for (handle, state) in &submitted {
            let record = handle.wait_timeout(common::PATIENCE).expect("its worker is gone");
            assert_eq!(record.state(), *state);
        }
        delegator.wait_idle();
        assert_balanced(&delegator.stats());
        assert!(delegator.shutdown(Shutdown::drain()).stuck.is_empty());
    });
}

#[test]
fn a_logger_that_is_slow_holds_up_only_the_thread_that_writes() {
    recorder();
    watchdog(|| {
        let (writing, goes_on) = (Gate::new(), Gate::new());
        react("slow-to-write", {
            let (writing, goes_on) = (writing.clone(), goes_on.clone());
            move |_| {
                writing.open();
                goes_on.wait();
            }
        });
        let delegator = sized(2, 8);
        let slow = delegator.submit(yields("slow-to-write", "")).expect("room");
        writing.wait();
        for _ in 0..5 {
            assert_eq!(
                delegator.submit(yields("other", "")).expect("room").wait().state(),
                JobState::Completed
            );
        }
        let _numbers = (delegator.stats(), delegator.workers(), delegator.registry().records());
        let _state = (slow.state(), slow.try_wait(), slow.cancel());
        goes_on.open();
        assert_eq!(slow.wait().state(), JobState::Completed);
    });
}

/// An error whose text is not to be had.
struct Unspeakable {
    act: fn(),
}

impl fmt::Display for Unspeakable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.act)();
        f.write_str("spoken after all")
    }
}

impl fmt::Debug for Unspeakable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unspeakable")
    }
}

impl std::error::Error for Unspeakable {}

#[test]
fn an_error_whose_text_panics_hurts_nobody() {
    recorder();
    watchdog(|| {
        let delegator = sized(1, 8);
        let error = || Error::new(Unspeakable { act: || panic!("no text for you") });
        let failed = delegator.submit(Job::new("u-failed", move |_| Err(error()))).expect("room");
        let record = failed.wait();
        assert_eq!(record.state(), JobState::Failed);
        assert!(record.error().and_then(|e| e.get_ref()).is_some_and(|e| e.is::<Unspeakable>()));
        let busy = occupy(&delegator);
        let queued = delegator.submit(yields("u-cancelled", "")).expect("room");
        assert!(queued.cancel_with(Unspeakable { act: || panic!("no text for you") }));
        assert_eq!(queued.wait().state(), JobState::Cancelled);
        busy.release();
        let started = Gate::new();
        let running = delegator.submit(obedient("u-running", &started)).expect("room");
        started.wait();
        assert!(running.cancel_with(Unspeakable { act: || panic!("no text for you") }));
        assert_eq!(running.wait().state(), JobState::Cancelled);
        let record = delegator.submit(yields("after", "fine")).expect("room").wait();
        assert_eq!((record.worker(), record.payload()), (Some(0), Some(&b"fine"[..])));
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn an_error_whose_text_calls_back_finds_no_lock_in_its_way() {
    static SHARED: OnceLock<Delegator> = OnceLock::new();

    recorder();
    watchdog(|| {
        let shared = SHARED.get_or_init(|| sized(1, 8));
        let error = || {
            Error::new(Unspeakable {
                act: || {
                    let Some(delegator) = SHARED.get() else { return };
                    let _numbers =
                        (delegator.stats(), delegator.workers(), delegator.registry().records().len());
                    if delegator.stats().submitted < 10 {
                        let _handle = delegator.try_submit(yields("from-a-text", ""));
                    }
                },
            })
        };
        let handle = shared.submit(Job::new("calls-back", move |_| Err(error()))).expect("room");
        assert_eq!(handle.wait().state(), JobState::Failed);
        assert!(line_about(&handle, Level::Warn).text.contains("spoken after all"));
        shared.wait_idle();
        assert_balanced(&shared.stats());
    });
}

#[test]
fn lines_about_jobs_come_from_the_thread_that_ended_them() {
    recorder();
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let queued = delegator.submit(yields("by-hand", "")).expect("room");
        assert!(queued.cancel());
        assert_eq!(line_about(&queued, Level::Warn).thread, thread::current().id());
        busy.release();
        let job = Job::new("by-a-worker", |_| Ok(format!("{:?}", thread::current().id()).into_bytes()));
        let handle = delegator.submit(job).expect("room");
        let worker = handle.wait().payload().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert_eq!(Some(format!("{:?}", line_about(&handle, Level::Debug).thread)), worker);
    });
}
