//! Makes small copies of all pictures below a folder, on all cores.
//!
//! ```text
//!  walk ─▶ set ─▶ delegator ─▶ set ─▶ tally, progress, errors
//!           at most a few pictures each worker
//! ```
//!
//! One group of jobs, which never has more than a few pictures under way, so memory does not grow with the folder. A picture
//! that cannot be read is named, and the others are made; or, on request, the first of them ends the group. A thumbnail is
//! there as a whole or not at all, also after Ctrl-C.

mod args;
mod make;
mod picture;
#[path = "../digest/stop.rs"]
mod stop;

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use walkdir::WalkDir;
use workpath::{Context, Delegator, Job, JobRecord, JobState, Retention, Shutdown, SubmitError};

use crate::args::Args;

/// Pictures under way for each worker: one in its hands, one waiting.
const EACH: usize = 2;

/// How long a stopped run waits for the pictures that are in work.
const GRACE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(status) => status.into(),
        Err(error) => {
            complain(&error);
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<u8, Box<dyn Error>> {
    let (run, canceller) = Context::background().with_cancel();
    stop::on_signal(canceller)?;
    let mut builder = Delegator::builder().retain(Retention::none()).thread_name("picture");
    if let Some(workers) = args.workers {
        builder = builder.workers(workers.get());
    }
    let delegator = builder.build()?;
    if args.make > 0 {
        make::pictures(&delegator, &run, args)?;
    }
    let begun = Instant::now();
    let pictures = find(&args.from, &args.to)?;
    let bar = progress(args.quiet, pictures.len());
    let tally = make_all(&delegator, &run, args, &pictures, &bar);
    bar.finish_and_clear();
    // Nothing is left in the group but what hangs on a dead disk.
    delegator.shutdown(Shutdown::cancel().within(GRACE));
    if !args.quiet {
        println!("{} pictures: {tally}, in {:.1} s", pictures.len(), begun.elapsed().as_secs_f64());
    }
    Ok(match (tally.left, tally.broken) {
        (0, 0) => 0,
        (0, _) => 1,
        _ => stop::exit_status(&run),
    })
}

#[derive(Default)]
struct Tally {
    made: usize,
    broken: usize,
    left: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} thumbnails, {} broken, {} left", self.made, self.broken, self.left)
    }
}

/// The pictures below `from`, in the order of their names; not those below `to`.
fn find(from: &Path, to: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut pictures = Vec::new();
    for entry in WalkDir::new(from).sort_by_file_name().into_iter().filter_entry(|entry| entry.path() != to) {
        match entry {
            Ok(entry) if entry.file_type().is_file() && picture::is_one(entry.path()) => {
                pictures.push(entry.into_path());
            }
            Ok(_) => {}
            Err(error) if error.depth() == 0 => return Err(error.into()),
            Err(error) => complain(&error),
        }
    }
    Ok(pictures)
}

/// Makes the thumbnails, as one group.
fn make_all(
    delegator: &Delegator,
    run: &Context,
    args: &Args,
    pictures: &[PathBuf],
    bar: &ProgressBar,
) -> Tally {
    let most = delegator.workers().len() * EACH;
    let mut group = delegator.job_set().with_context(run).max_in_flight(most);
    let mut tally = Tally { left: pictures.len(), ..Tally::default() };
    let mut waiting = pictures.iter();
    let mut stopped = false;
    loop {
        // Whoever is done makes room; when nobody is left to come, all of them are waited for.
        let next = if stopped || run.is_done() { None } else { waiting.next() };
        if let Some(path) = next {
            let refused = group.submit(job(path, args)).err();
            debug_assert!(
                refused.is_none(),
                "nobody shuts it down: {:?}",
                refused.map(SubmitError::into_job)
            );
        }
        let patience = if next.is_some() { Duration::ZERO } else { Duration::MAX };
        while let Some(record) = group.next_finished(patience) {
            bar.inc(1);
            if count(&record, &mut tally, bar) && args.stop_at_error && !stopped {
                stopped = true;
                group.cancel_with("another picture is broken");
            }
        }
        if group.is_empty() && next.is_none() {
            return tally;
        }
    }
}

/// The work on one picture. Its name is what is said if it is broken.
fn job(path: &Path, args: &Args) -> Job {
    let (from, size) = (path.to_owned(), args.size);
    let inside = path.strip_prefix(&args.from).unwrap_or(path);
    let mut to = args.to.join(inside).into_os_string();
    to.push(".png");
    let to = PathBuf::from(to);
    Job::new(format!("{path:?}"), move |ctx| picture::shrink(ctx, &from, &to, size))
}

/// Counts the picture, and names it if it is broken: `true`.
fn count(record: &JobRecord, tally: &mut Tally, bar: &ProgressBar) -> bool {
    match record.state() {
        JobState::Completed => tally.made += 1,
        // Neither done nor at fault.
        JobState::Cancelled => return false,
        _ => {
            tally.broken += 1;
            let why = record.error().map(ToString::to_string).unwrap_or_default();
            bar.suspend(|| complain(&format_args!("{}: {why}", record.name())));
        }
    }
    tally.left -= 1;
    record.state() != JobState::Completed
}

/// A bar on a terminal, and nothing elsewhere.
fn progress(quiet: bool, pictures: usize) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} pictures, {eta} left");
    ProgressBar::new(pictures as u64).with_style(style.expect("a valid template"))
}

/// Standard error may be gone; that is no reason to stop.
fn complain(what: &dyn fmt::Display) {
    let _ = writeln!(io::stderr(), "thumbnails: {what}");
}
