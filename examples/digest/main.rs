//! Prints the SHA-256 of every regular file below the given paths, as `sha256sum` would, on all cores.
//!
//! ```text
//!          jobs                 lines
//!  walk ─────────▶ delegator ─────────▶ print ─▶ standard output
//!    │             (workers)              ▲
//!    └────────────────────────────────────┘
//!         handles, in the order of the walk
//! ```
//!
//! The walk is lazy and both ways from it are bounded, so memory does not grow with the tree. When the workers fall
//! behind, the queue stops the walk; when the reader of the output falls behind, or one file takes very long, the
//! window of handles does.

mod args;
mod hash;
mod line;
mod print;
mod progress;
mod stop;
mod summary;
mod walk;

use std::error::Error;
use std::io::{self, ErrorKind, Write};
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;
use workpath::{Canceller, Context, Delegator, Retention, Shutdown};

use crate::args::Args;
use crate::hash::Meter;
use crate::print::Printer;
use crate::progress::Progress;
use crate::summary::{Summary, Tally};
use crate::walk::Walk;

/// Jobs that may wait for a worker: enough to keep all of them busy, few enough to name when a run is stopped.
const QUEUE: usize = 64;

/// Files that may be done and wait for a slower one before them, at less than half a kilobyte each.
const WINDOW: usize = 8192;

/// How long a stopped run waits for its workers, and then for its last lines to be taken.
const GRACE: Duration = Duration::from_millis(300);

/// When a stopped run ends, whatever hangs.
const LAST_RESORT: Duration = Duration::from_millis(950);

/// What a shell shows for a program that was ended by a closed pipe.
const OUTPUT_CLOSED: u8 = 141;

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(status) => status.into(),
        Err(error) => {
            let _ = writeln!(io::stderr(), "digest: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: Args) -> Result<u8, Box<dyn Error>> {
    let started = Instant::now();
    let (mut run, canceller) = Context::background().with_value(hash::METER, Meter::default()).with_cancel();
    if let Some(limit) = args.timeout {
        run = run.with_timeout(limit);
    }
    stop::on_signal(canceller)?;

    let mut builder = Delegator::builder().queue_capacity(QUEUE).retain(Retention::none());
    if let Some(workers) = args.workers {
        builder = builder.workers(workers.get());
    }
    let delegator = builder.build()?;

    let progress = Progress::new(args.quiet, &args.paths, &run);
    let tally = Arc::new(Mutex::new(Tally::default()));
    let (window, items) = bounded(WINDOW);
    let walk = Walk { run: run.clone(), limit: args.per_file_timeout, jobs: delegator.submitter(), window };
    let (patience, give_up) = Context::background().with_cancel();
    let printer = Printer::new(run.clone(), patience, progress.clone(), tally.clone());
    spawn("walk", move || walk.submit_all(&args.paths))?;
    let printed = spawn("print", move || printer.print_all(&items))?;

    let outcome = wait(&run, &delegator, &give_up, &printed);
    progress.finish();
    match &outcome {
        Some(Ok(())) => {}
        Some(Err(error)) if error.kind() == ErrorKind::BrokenPipe => return Ok(OUTPUT_CLOSED),
        Some(Err(error)) => progress.say(&format!("standard output: {error}")),
        None => progress.say("the output is not taken: its last lines are missing"),
    }
    let tally = tally.lock();
    if !args.quiet {
        let summary = Summary { tally: &tally, bytes: Meter::reading(&run), elapsed: started.elapsed() };
        let _ = writeln!(io::stderr(), "{summary}");
    }
    Ok(match outcome {
        Some(Ok(())) if tally.is_whole() => u8::from(tally.failed > 0),
        _ => stop::exit_status(&run),
    })
}

/// Waits until everything is printed or the run has ended, stops what is at work then, and says how printing ended.
///
/// The walk, the workers and the printer can all be blocked for good, on a dead disk or on a pipe that nobody reads.
/// This thread never is.
fn wait(
    run: &Context,
    delegator: &Delegator,
    give_up: &Canceller,
    printed: &Receiver<io::Result<()>>,
) -> Option<io::Result<()>> {
    let outcome = run.recv(printed).ok();
    if run.is_done() {
        let status = stop::exit_status(run);
        thread::spawn(move || {
            thread::sleep(LAST_RESORT);
            process::exit(status.into());
        });
    }
    delegator.shutdown(Shutdown::cancel().within(GRACE));
    give_up.cancel();
    outcome.or_else(|| printed.recv_timeout(GRACE).ok())
}

/// Starts a thread that may outlive `main`, and gives a channel for what it returns.
fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Receiver<T>> {
    let (end, ended) = bounded(1);
    thread::Builder::new().name(name.into()).spawn(move || end.send(body()))?;
    Ok(ended)
}
