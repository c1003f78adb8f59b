//! Small tools that the integration tests share: gates instead of sleeps, a watchdog instead of a hang.

#![allow(dead_code, reason = "every test file is a crate of its own and uses its own part of this")]

use std::convert::Infallible;
use std::fmt;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use workpath::{Context, Delegator, Job, JobHandle};

/// How long anything may take before a test calls it stuck. Far above what a healthy run needs, also under a
/// sanitizer or an emulator.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A time limit that no test lives to see.
pub(crate) const FOREVER: Duration = Duration::from_secs(1_000 * 60 * 60);

/// A time limit that a test can afford to wait for.
pub(crate) const BRIEF: Duration = Duration::from_millis(20);

/// Runs `body` on a thread of its own and fails when it has not come back after `limit`. A panic in `body` is passed on.
#[track_caller]
pub(crate) fn within<T: Send + 'static>(limit: Duration, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (report, outcome) = mpsc::channel();
    let name = thread::current().name().unwrap_or("watched").to_owned();
    let runner = thread::Builder::new()
        .name(name)
        .spawn(move || {
            let result = panic::catch_unwind(panic::AssertUnwindSafe(body));
            let _ = report.send(result);
        })
        .expect("a thread for the watched body");
    match outcome.recv_timeout(limit) {
        Ok(Ok(value)) => {
            let _ = runner.join();
            value
        }
        Ok(Err(payload)) => panic::resume_unwind(payload),
        Err(_) => panic!("not finished after {limit:?}"),
    }
}

/// [`within`] the usual [`PATIENCE`].
#[track_caller]
pub(crate) fn watchdog<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    within(PATIENCE, body)
}

/// Looks again and again until `holds` says yes. Only for what nobody can wait for, such as "that thread is blocked".
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "still not so: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A door that starts closed and, once opened, stays open. Clones are the same door.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    pub(crate) fn new() -> Gate {
        Gate::default()
    }

    pub(crate) fn open(&self) {
        *lock(&self.shared.0) = true;
        self.shared.1.notify_all();
    }

    pub(crate) fn is_open(&self) -> bool {
        *lock(&self.shared.0)
    }

    /// Blocks until the gate is open; panics when it never is.
    #[track_caller]
    pub(crate) fn wait(&self) {
        assert!(self.wait_timeout(PATIENCE), "nobody opened the gate");
    }

    /// Blocks until the gate is open or `limit` has passed, and says whether it is open.
    pub(crate) fn wait_timeout(&self, limit: Duration) -> bool {
        let guard = lock(&self.shared.0);
        let (guard, _) = self
            .shared
            .1
            .wait_timeout_while(guard, limit, |open| !*open)
            .unwrap_or_else(PoisonError::into_inner);
        *guard
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

/// Counts events and lets a test wait for them. Clones share the count.
#[derive(Clone, Default)]
pub(crate) struct Counter {
    shared: Arc<(Mutex<usize>, Condvar)>,
}

impl Counter {
    pub(crate) fn new() -> Counter {
        Counter::default()
    }

    /// Adds one and returns the new count.
    pub(crate) fn add(&self) -> usize {
        let mut count = lock(&self.shared.0);
        *count += 1;
        self.shared.1.notify_all();
        *count
    }

    pub(crate) fn get(&self) -> usize {
        *lock(&self.shared.0)
    }

    /// Blocks until the count is at least `target`; panics when it never is.
    #[track_caller]
    pub(crate) fn wait_for(&self, target: usize) {
        let guard = lock(&self.shared.0);
        let (guard, _) = self
            .shared
            .1
            .wait_timeout_while(guard, PATIENCE, |count| *count < target)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(*guard >= target, "counted {} of {target}", *guard);
    }
}

/// Tells when it has been dropped. For moving into operations, values, callbacks and errors.
#[derive(Debug)]
pub(crate) struct DropFlag {
    dropped: Gate,
}

impl DropFlag {
    /// The value to hand over, and the gate that opens when it is dropped.
    pub(crate) fn new() -> (DropFlag, Gate) {
        let dropped = Gate::new();
        (DropFlag { dropped: dropped.clone() }, dropped)
    }
}

impl Drop for DropFlag {
    fn drop(&mut self) {
        self.dropped.open();
    }
}

/// Adds one to a counter when it is dropped.
pub(crate) struct CountOnDrop(pub(crate) Counter);

impl Drop for CountOnDrop {
    fn drop(&mut self) {
        self.0.add();
    }
}

/// Panics when it is dropped, unless that would abort the process.
#[derive(Debug)]
pub(crate) struct PanicOnDrop(pub(crate) &'static str);

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("{}", self.0);
        }
    }
}

/// Whether a `done()` receiver has fired.
pub(crate) fn fired(done: &Receiver<Infallible>) -> bool {
    done.try_recv() == Err(TryRecvError::Disconnected)
}

/// Blocks until a `done()` receiver fires; panics when it never does.
#[track_caller]
pub(crate) fn wait_fired(done: &Receiver<Infallible>) {
    match done.recv_timeout(PATIENCE) {
        Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {}
        Err(crossbeam_channel::RecvTimeoutError::Timeout) => panic!("the done channel never fired"),
        Ok(never) => match never {},
    }
}

/// A delegator with so many workers, room for 64 jobs and nothing else set.
pub(crate) fn delegator(workers: usize) -> Delegator {
    Delegator::builder().workers(workers).queue_capacity(64).build().expect("a delegator")
}

/// A job that ends at once with these bytes.
pub(crate) fn yields(name: &'static str, bytes: impl Into<Vec<u8>>) -> Job {
    let bytes = bytes.into();
    Job::new(name, move |_: &Context| Ok(bytes.clone()))
}

/// A job that ends at once with this error.
pub(crate) fn fails(name: &'static str, text: &'static str) -> Job {
    Job::new(name, move |_: &Context| Err(text.into()))
}

/// A job that panics with this text.
pub(crate) fn panics(name: &'static str, text: &'static str) -> Job {
    Job::new(name, move |_: &Context| panic!("{text}"))
}

/// A job that opens `started`, waits for `release`, and ends well. It does not look at its context.
pub(crate) fn gated(name: &'static str, started: &Gate, release: &Gate) -> Job {
    let (started, release) = (started.clone(), release.clone());
    Job::new(name, move |_: &Context| {
        started.open();
        release.wait();
        Ok(Vec::new())
    })
}

/// A worker kept busy until this value is released or dropped, so that other jobs stay in the queue.
///
/// Keep it in a variable declared after the delegator: then a failed assertion releases the worker first.
#[must_use]
pub(crate) struct Busy {
    release: Gate,
    pub(crate) handle: JobHandle,
}

impl Busy {
    pub(crate) fn release(&self) {
        self.release.open();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.release.open();
    }
}

/// Occupies one worker of `delegator` and returns when it is occupied.
pub(crate) fn occupy(delegator: &Delegator) -> Busy {
    let (started, release) = (Gate::new(), Gate::new());
    let handle = delegator.submit(gated("busy", &started, &release)).expect("room for the job that blocks");
    let busy = Busy { release, handle };
    started.wait();
    busy
}

/// One line that went to the log.
#[derive(Clone, Debug)]
pub(crate) struct LogLine {
    pub(crate) level: log::Level,
    pub(crate) target: String,
    pub(crate) text: String,
}

/// The process's logger in tests that look at the log: it keeps every line.
#[derive(Default)]
pub(crate) struct CapturedLog {
    lines: Mutex<Vec<LogLine>>,
}

impl CapturedLog {
    /// Installs the logger on the first call. The lines of all tests of one file end up in the same place: look for a
    /// text that only your test writes.
    pub(crate) fn install() -> &'static CapturedLog {
        static LOG: OnceLock<CapturedLog> = OnceLock::new();
        static INSTALLED: AtomicBool = AtomicBool::new(false);
        let captured = LOG.get_or_init(CapturedLog::default);
        if !INSTALLED.swap(true, Ordering::SeqCst) {
            log::set_logger(captured).expect("no other logger in this process");
        }
        log::set_max_level(log::LevelFilter::Trace);
        captured
    }

    /// The lines so far that contain `text`.
    pub(crate) fn containing(&self, text: &str) -> Vec<LogLine> {
        lock(&self.lines).iter().filter(|line| line.text.contains(text)).cloned().collect()
    }
}

impl log::Log for CapturedLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = LogLine {
            level: record.level(),
            target: record.target().to_owned(),
            text: record.args().to_string(),
        };
        lock(&self.lines).push(line);
    }

    fn flush(&self) {}
}

/// A lock that shrugs at poison: a failed assertion elsewhere must not fail this one too.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
