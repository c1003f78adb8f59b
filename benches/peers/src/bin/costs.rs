//! What each option costs a job: the same stream of empty jobs with one option at a time, all in turn in every round.
//!
//! Prints Markdown: the median of the rounds, and the difference to a job without options.
//!
//!     cargo run --release --manifest-path benches/peers/Cargo.toml --bin costs [-- ROUNDS]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use workpath::{Builder, Context, Delegator, Error, Job, JobHandle, Overflow, Priority, Retry};

const JOBS: usize = 60_000;
const OUTSTANDING: usize = 1024;
const FAR: Duration = Duration::from_secs(3600);

/// An option: for the delegator, for a job, and what the operation calls.
struct Case {
    name: &'static str,
    build: fn(Builder) -> Builder,
    job: fn(Job, usize) -> Job,
    operation: fn(&Context) -> Result<Vec<u8>, Error>,
    submit: fn(&Delegator, Job) -> JobHandle,
    subscribed: bool,
}

fn empty(_: &Context) -> Result<Vec<u8>, Error> {
    Ok(Vec::new())
}

fn submit(delegator: &Delegator, job: Job) -> JobHandle {
    delegator.submit(job).expect("open")
}

const PLAIN: Case = Case {
    name: "no option",
    build: |builder| builder,
    job: |job, _| job,
    operation: empty,
    submit,
    subscribed: false,
};

fn options() -> Vec<Case> {
    vec![
        PLAIN,
        Case { name: "`with_timeout`", job: |job, _| job.with_timeout(FAR), ..PLAIN },
        Case {
            name: "`with_context`, cancellable",
            job: |job, _| job.with_context(&Context::background().with_cancel().0),
            ..PLAIN
        },
        Case { name: "`with_priority`", job: |job, _| job.with_priority(Priority::High), ..PLAIN },
        Case { name: "`with_delay`, zero", job: |job, _| job.with_delay(Duration::ZERO), ..PLAIN },
        Case { name: "`with_retry`, not needed", job: |job, _| job.with_retry(Retry::fixed(FAR)), ..PLAIN },
        Case {
            name: "`with_key`, eight keys, no limit",
            job: |job, n| job.with_key(KEYS[n % KEYS.len()]),
            build: |builder| builder.key_limit(usize::MAX),
            ..PLAIN
        },
        Case { name: "`with_key`, one key, one at a time", job: |job, _| job.with_key("key"), ..PLAIN },
        Case {
            name: "`submit_with(DropOldest)`, with room",
            submit: |delegator, job| delegator.submit_with(job, Overflow::DropOldest).expect("open"),
            build: |builder| builder.queue_capacity(4096),
            ..PLAIN
        },
        Case { name: "`latencies`", build: |builder| builder.latencies(true), ..PLAIN },
        Case { name: "`latencies_by_name`", build: |builder| builder.latencies_by_name(16), ..PLAIN },
        Case { name: "`refuse_hopeless`", build: |builder| builder.refuse_hopeless(true), ..PLAIN },
        Case { name: "a subscriber to events that keeps up", subscribed: true, ..PLAIN },
        Case { name: "`ctx.check()`", operation: |ctx| ctx.check().map(|()| Vec::new()), ..PLAIN },
        Case {
            name: "`ctx.progress()`, once",
            operation: |ctx| {
                ctx.progress(1, 2);
                Ok(Vec::new())
            },
            ..PLAIN
        },
        Case {
            name: "`ctx.checkpoint()`, once, a literal",
            operation: |ctx| ctx.checkpoint("here").map(|()| Vec::new()),
            ..PLAIN
        },
    ]
}

static KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// Nanoseconds per job.
fn run(option: &Case) -> f64 {
    let builder = Delegator::builder().workers(2).queue_capacity(OUTSTANDING);
    let delegator = (option.build)(builder).build().expect("a delegator");
    let reader = option.subscribed.then(|| {
        let events = delegator.subscribe(1 << 16);
        std::thread::spawn(move || events.into_iter().count())
    });
    let mut outstanding = VecDeque::with_capacity(OUTSTANDING);
    let start = Instant::now();
    for n in 0..JOBS {
        if outstanding.len() == OUTSTANDING {
            let first: JobHandle = outstanding.pop_front().expect("there are some");
            first.wait();
        }
        let job = (option.job)(Job::new("job", option.operation), n);
        outstanding.push_back((option.submit)(&delegator, job));
    }
    for handle in outstanding {
        handle.wait();
    }
    let time = start.elapsed();
    drop(delegator);
    if let Some(reader) = reader {
        reader.join().expect("the reader of events");
    }
    time.as_nanos() as f64 / JOBS as f64
}

fn main() {
    let rounds = match std::env::args().nth(1).map(|rounds| rounds.parse::<usize>()) {
        None => 9,
        Some(Ok(rounds)) if rounds > 0 => rounds,
        Some(_) => {
            eprintln!("costs: the only argument is a number of rounds");
            std::process::exit(2);
        }
    };
    let options = options();
    let mut times = vec![Vec::with_capacity(rounds); options.len()];
    run(&options[0]);
    for _ in 0..rounds {
        for (option, times) in options.iter().zip(&mut times) {
            times.push(run(option));
        }
    }
    let medians: Vec<f64> = times
        .iter_mut()
        .map(|times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        })
        .collect();
    println!("| | ns per job | more than without |\n|---|--:|--:|");
    for (option, median) in options.iter().zip(&medians) {
        println!("| {} | {median:.0} | {:+.0} |", option.name, median - medians[0]);
    }
}
