//! A picture of what a delegator did, drawn from the records of its registry: what ran where, how many jobs waited, and
//! for how long.
//!
//! The work is a mixture of everything that can happen to a job: fast and slow ones, jobs inside jobs, errors, panics,
//! deadlines, a cancelled group, priorities. It sleeps where a real program would work, so that the picture does not
//! depend on the machine. The panics that it reports on standard error are meant.

mod history;
mod picture;
mod workload;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, arg, value_parser};
use workpath::{Delegator, Retention, Shutdown};

use crate::history::History;

const WORKERS: usize = 4;

fn main() -> ExitCode {
    let given = Command::new("timeline")
        .about("Run a mixture of jobs, and draw what happened to them, as SVG")
        .arg(
            arg!([FILE] "Where the picture goes [default: timeline.svg]")
                .value_parser(value_parser!(PathBuf)),
        )
        .get_matches();
    let file = given.get_one("FILE").cloned().unwrap_or_else(|| PathBuf::from("timeline.svg"));
    match run(&file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("timeline: {}: {error}", file.display());
            ExitCode::FAILURE
        }
    }
}

fn run(file: &Path) -> Result<(), Box<dyn Error>> {
    let delegator =
        Delegator::builder().workers(WORKERS).latencies(true).retain(Retention::last(10_000)).build()?;
    workload::run(&delegator)?;
    delegator.wait_idle();

    let history = History::of(&delegator.registry().records());
    fs::write(file, picture::svg(&history, WORKERS, &delegator.latencies())?)?;
    println!("{} jobs in {:.1} s on {WORKERS} workers: {}", history.jobs.len(), history.end, file.display());
    delegator.shutdown(Shutdown::drain());
    Ok(())
}
