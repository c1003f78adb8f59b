//! Asks a flaky service, which it serves itself, and tries again as the errors demand: backoff, the time that the
//! service asks for, no second attempt where there is no hope, and a budget for all.

#[path = "digest/stop.rs"]
mod stop;

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Command, arg, value_parser};
use workpath::{Context, Delegator, GaveUp, Job, JobRecord, JobState, Retry, RetryBudget, Shutdown};

const DETAILS: &str = "\
Of every four requests, the service answers one at once; it hangs up twice on the next before it answers; it asks the
third to come back in 50 ms; and it does not know what the fourth wants.

Exit status: 0 when each request got an answer; 1 when some were given up; 2 for wrong usage; 130 after Ctrl-C and 143
after SIGTERM.";

/// How long one attempt may wait for the service.
const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    match run() {
        Ok(status) => status.into(),
        Err(error) => {
            let _ = writeln!(io::stderr(), "retry: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<u8, Box<dyn Error>> {
    let given = Command::new("retry")
        .about("Ask a flaky service on the loopback interface, and try again")
        .after_help(DETAILS)
        .args([
            arg!(--requests <N> "How many requests [default: 8]")
                .value_parser(value_parser!(u16).range(1..=10_000)),
            arg!(--attempts <N> "Attempts for each request [default: 5]")
                .value_parser(value_parser!(u32).range(1..)),
            arg!(--budget <N> "Retries per second, beside one for five requests [default: 10]")
                .value_parser(value_parser!(u32)),
            arg!(--seconds <SECONDS> "Give up after this long [default: 10]").value_parser(seconds),
            arg!(--down "The service hangs up on everybody"),
        ])
        .get_matches();
    let requests = given.get_one("requests").copied().unwrap_or(8_u16);
    let attempts = given.get_one("attempts").copied().unwrap_or(5);
    let budget = given.get_one("budget").copied().unwrap_or(10);
    let time = given.get_one("seconds").copied().unwrap_or(Duration::from_secs(10));

    let (run, canceller) = Context::background().with_timeout(time).with_cancel();
    stop::on_signal(canceller)?;
    let service = serve(given.get_flag("down"))?;

    let delegator = Delegator::builder().workers(4).retry_budget(RetryBudget::new(0.2, budget)).build()?;
    let policy =
        Retry::exponential(Duration::from_millis(20)).max_attempts(attempts).max_delay(PATIENCE).jitter();
    let mut set = delegator.job_set().with_context(&run);
    for n in 0..requests {
        set.submit(
            Job::new(format!("request {n}"), move |ctx| ask(ctx, service, n)).with_retry(policy.clone()),
        )?;
    }
    let records = set.wait_all();
    let retried = delegator.stats().retried;
    delegator.shutdown(Shutdown::cancel());

    // A reader who has gone away misses nothing but this.
    let _ = show(&records, retried);
    let answered = |record: &JobRecord| {
        record.state() == JobState::Completed || record.gave_up() == Some(GaveUp::Permanent)
    };
    Ok(if records.iter().all(answered) { 0 } else { stop::exit_status(&run) })
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// One attempt.
fn ask(ctx: &Context, service: SocketAddr, n: u16) -> Result<Vec<u8>, workpath::Error> {
    ctx.check()?;
    let mut stream = TcpStream::connect_timeout(&service, ctx.io_timeout(PATIENCE))?;
    stream.set_read_timeout(Some(ctx.io_timeout(PATIENCE)))?;
    stream.set_write_timeout(Some(ctx.io_timeout(PATIENCE)))?;
    writeln!(stream, "{n}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    match answer.trim_end().split_once(' ') {
        Some(("200", text)) => Ok(text.as_bytes().to_vec()),
        Some(("404", text)) => Err(workpath::Error::permanent(text)),
        Some(("503", millis)) => {
            let delay = Duration::from_millis(millis.parse()?);
            Err(workpath::Error::retry_after(delay).because("busy"))
        }
        _ => Err("the service hung up".into()),
    }
}

/// Answers one connection after the other, for as long as the process lives.
fn serve(down: bool) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::Builder::new().name("service".into()).spawn(move || {
        let mut calls = HashMap::new();
        for stream in listener.incoming().flatten() {
            // Who does not ask is not answered.
            let _ = answer(&stream, &mut calls, down);
        }
    })?;
    Ok(address)
}

fn answer(mut stream: &TcpStream, calls: &mut HashMap<u16, u32>, down: bool) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let Ok(n) = line.trim_end().parse::<u16>() else { return Ok(()) };
    let calls = calls.entry(n).or_insert(0);
    *calls += 1;
    match (n % 4, *calls) {
        _ if down => Ok(()),
        (1, 1 | 2) => Ok(()),
        (2, 1) => writeln!(stream, "503 50"),
        (3, _) => writeln!(stream, "404 no such page"),
        _ => writeln!(stream, "200 hello {n}"),
    }
}

/// A line for each attempt.
fn show(records: &[JobRecord], retried: u64) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{:13} {:>7} {:>6} {:>8}  result", "request", "attempt", "worker", "ms")?;
    let mut line = |name: &str, attempt: u32, worker: Option<usize>, ran: Duration, result: &str| {
        let worker = worker.map_or("-".to_owned(), |worker| worker.to_string());
        writeln!(out, "{name:13} {attempt:>7} {worker:>6} {:>8.1}  {result}", ran.as_secs_f64() * 1000.0)
    };
    for record in records {
        for attempt in record.earlier_attempts() {
            let result = attempt.error().to_string();
            line(record.name(), attempt.number(), attempt.worker(), attempt.run_time(), &result)?;
        }
        if record.started_at().is_some() {
            let result = match (record.result(), record.gave_up()) {
                (Ok(payload), _) => String::from_utf8_lossy(payload).into_owned(),
                (Err(error), None) => error.to_string(),
                (Err(error), Some(why)) => format!("{error}; {why}"),
            };
            line(record.name(), record.attempts(), record.worker(), record.run_time(), &result)?;
        }
    }
    let completed = records.iter().filter(|record| record.state() == JobState::Completed).count();
    let unknown = records.iter().filter(|record| record.gave_up() == Some(GaveUp::Permanent)).count();
    let given_up = records.len() - completed - unknown;
    writeln!(out, "{completed} answered, {unknown} unknown, {given_up} given up, {retried} retries")
}
