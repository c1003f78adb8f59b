//! Those who look on: the logger, the panic hook, the watchdog, and what the system says about the process.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use workpath::Delegator;

use crate::jobs;
use crate::producers::Pace;
use crate::world::{Door, Form, LEDGER, Rng, TIMER, add, lock, no_house_thread, put_away};

/// A logger that formats everything, keeps nothing, panics at times and at times submits a job and waits for it.
pub(crate) struct Logger {
    pub(crate) rng: Mutex<Rng>,
    pub(crate) door: OnceLock<Door>,
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        add(&LEDGER.lines);
        let is_timer = thread::current().name() == Some(TIMER);
        if !is_timer {
            no_house_thread("a line was logged");
        }
        let line = record.args().to_string();
        LEDGER.check(!line.is_empty(), || "an empty line was logged".to_owned());
        let mut rng = lock(&self.rng).fork();
        // A job that is submitted here is announced as well: once is enough.
        if !is_timer && rng.one_in(64) && !INSIDE.replace(true) {
            if let Some(door) = self.door.get() {
                // A worker must not wait for room: all of them might. A plain submission runs the job instead.
                let form = if rng.one_in(2) { Form::Submit } else { Form::at_once(&mut rng) };
                match jobs::simple(&mut rng).send(door, form) {
                    Ok(sent) => {
                        let record = sent.handle.wait();
                        sent.verify(&record);
                        put_away((record, sent));
                    }
                    Err(refused) => put_away(refused),
                }
            }
            INSIDE.set(false);
        }
        if rng.one_in(50) {
            panic!("a logger that panics");
        }
    }

    fn flush(&self) {}
}

/// The last panic that nobody planned, by the threads of the soak itself.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Planned panics make no noise.
pub(crate) fn hush() {
    std::panic::set_hook(Box::new(|info| {
        if thread::current().name().is_some_and(|name| name.starts_with("soak")) {
            *lock(&PANIC) = Some(info.to_string());
        }
    }));
}

pub(crate) fn last_panic() -> String {
    lock(&PANIC).take().unwrap_or_default()
}

/// Ends the process with a report when nothing has moved for so long.
pub(crate) fn watchdog(pace: Arc<Pace>, delegator: &Arc<Delegator>, seed: u64) {
    const HANG: Duration = Duration::from_secs(120);

    let delegator = Arc::downgrade(delegator);
    let watch = move || {
        let progress = || pace.steps.load(Ordering::Relaxed) + LEDGER.runs.load(Ordering::Relaxed);
        let (mut last, mut since) = (progress(), Instant::now());
        loop {
            thread::sleep(Duration::from_millis(250));
            if progress() != last {
                (last, since) = (progress(), Instant::now());
            } else if since.elapsed() > HANG {
                break;
            }
        }
        println!("soak: nothing has moved for {HANG:?}, seed {seed}");
        for (number, place) in pace.places.iter().enumerate() {
            println!("  thread {number}: {}", lock(place));
        }
        println!("  {} values captured by jobs are not dropped", LEDGER.afloat());
        // What is stuck may hold the locks that this needs.
        thread::spawn(move || {
            if let Some(delegator) = delegator.upgrade() {
                println!("  {delegator:?}");
                println!("  {:?}", delegator.workers());
                println!("  {:?}", delegator.stats());
                std::mem::forget(delegator);
            }
        });
        thread::sleep(Duration::from_secs(2));
        if let Some(violation) = LEDGER.violation() {
            println!("  before that: {violation}");
        }
        std::process::exit(1);
    };
    if let Err(error) = thread::Builder::new().name("soak-watchdog".to_owned()).spawn(watch) {
        LEDGER.fail(format_args!("no watchdog: {error}"));
    }
}

/// Ctrl-C and SIGTERM end the soak early.
#[cfg(unix)]
pub(crate) fn stop_on_signal() -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};

    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("soak-signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            LEDGER.stop();
        }
    })?;
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn stop_on_signal() -> std::io::Result<()> {
    Ok(())
}

/// Bytes of memory that are resident; `None` where the system does not say.
pub(crate) fn resident() -> Option<u64> {
    /// What the kernel counts in, on all that this is run on.
    const PAGE: u64 = 4096;

    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split_whitespace().nth(1)?.parse::<u64>().ok()? * PAGE)
}

pub(crate) fn threads() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}
