//! Periodic jobs, until its time is over or Ctrl-C: then it stops them, lets what runs come to its end, and accounts.

#[path = "digest/stop.rs"]
mod stop;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Command, arg, value_parser};
use workpath::{Context, Delegator, Every, Job, Overlap, Shutdown};

const DETAILS: &str = "\
A job is NAME=SECONDS, such as tidy=0.5; without any there are two. Each says when it runs. One that takes longer than
its interval misses some of its times.

Exit status: 0 when the time is over; 1 when something failed or could not be stopped; 2 for wrong usage; 130 after
Ctrl-C and 143 after SIGTERM.";

fn main() -> ExitCode {
    match run() {
        Ok(status) => status.into(),
        Err(error) => {
            let _ = writeln!(io::stderr(), "cron: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<u8, Box<dyn Error>> {
    let given = Command::new("cron")
        .about("Run jobs again and again")
        .after_help(DETAILS)
        .args([
            arg!(--seconds <SECONDS> "Stop after this long [default: 2]").value_parser(seconds),
            arg!(--takes <SECONDS> "How long each job takes [default: 0.05]").value_parser(seconds),
            arg!(--workers <N> "Jobs to run at a time [default: 2]")
                .value_parser(value_parser!(u16).range(1..=256)),
            arg!(--pauses "Count each interval from the end of the job before"),
            arg!(--queue "Have a job that is due wait for the one before, instead of leaving it out"),
            arg!([JOB]... "Jobs and their intervals [default: beat=0.2 report=0.5]").value_parser(job),
        ])
        .get_matches();
    let time = given.get_one("seconds").copied().unwrap_or(Duration::from_secs(2));
    let takes = given.get_one("takes").copied().unwrap_or(Duration::from_millis(50));
    let workers = given.get_one("workers").copied().unwrap_or(2_u16);
    let overlap = if given.get_flag("queue") { Overlap::Queue } else { Overlap::Skip };
    let mut jobs: Vec<(String, Duration)> =
        given.get_many("JOB").map(|jobs| jobs.cloned().collect()).unwrap_or_default();
    if jobs.is_empty() {
        jobs = vec![job("beat=0.2")?, job("report=0.5")?];
    }

    let (run, canceller) = Context::background().with_timeout(time).with_cancel();
    stop::on_signal(canceller)?;
    let delegator = Delegator::builder().workers(workers.into()).build()?;
    let start = Instant::now();
    let mut series = Vec::new();
    for (name, interval) in &jobs {
        let by = if given.get_flag("pauses") { Every::fixed_delay } else { Every::fixed_rate };
        let (name, mut runs) = (name.clone(), 0);
        let make = move || {
            runs += 1;
            let line = format!("{name} {runs}");
            Job::new(name.clone(), move |ctx| work(ctx, start, &line, takes))
        };
        series.push(delegator.every(by(*interval).overlap(overlap), make)?);
    }

    // Returns with an error, at the end of the time or when somebody interrupts.
    let _ = run.sleep(Duration::MAX);
    for series in &series {
        series.stop();
    }
    let report = delegator.shutdown(Shutdown::drain().within(Duration::from_secs(1)));
    let stats = delegator.stats();

    let mut out = io::stdout().lock();
    // A reader who has gone away misses nothing but this.
    for ((name, _), series) in jobs.iter().zip(&series) {
        let _ = writeln!(out, "{name}: {} runs, {} missed", series.submitted(), series.missed());
    }
    let _ = writeln!(
        out,
        "{} completed, {} failed, {} cancelled, {} stuck",
        stats.completed,
        stats.failed,
        stats.cancelled,
        report.stuck.len()
    );
    let is_over = run.error().is_some_and(|error| error.is_timeout());
    let failed = stats.failed > 0 || !report.stuck.is_empty();
    Ok(if is_over { failed.into() } else { stop::exit_status(&run) })
}

fn work(ctx: &Context, start: Instant, line: &str, takes: Duration) -> Result<Vec<u8>, workpath::Error> {
    writeln!(io::stdout(), "{:6.2} {line}", start.elapsed().as_secs_f64())?;
    ctx.sleep(takes)?;
    Ok(Vec::new())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn job(text: &str) -> Result<(String, Duration), String> {
    let (name, interval) = text.split_once('=').ok_or("not NAME=SECONDS")?;
    let interval = seconds(interval)?;
    if interval.is_zero() {
        return Err("an interval of zero has no end of ticks".to_owned());
    }
    Ok((name.to_owned(), interval))
}
