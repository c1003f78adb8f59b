//! One producer and any number of workers, on one machine or many, around a queue on a Redis or Valkey server.
//!
//!     export REDIS_URL=redis://127.0.0.1
//!     cargo run --release --features redis --example farm -- work               # as many as you like, wherever you like
//!     cargo run --release --features redis --example farm -- produce 100000
//!     cargo run --release --features redis --example farm -- top
//!
//! The work is to find the number below a limit that takes the most steps to come down to 1 in the Collatz sequence. Kill
//! workers, or the server (if it runs with `appendonly yes`): the producer gets its answer all the same.

use std::io::Write;
use std::time::{Duration, Instant};

use clap::{Arg, Command, value_parser};
use workpath::{Catalog, Delegator, Order, OrderQueue, QueueError, RedisQueue, Serve, Shutdown};

/// How many numbers an order is about.
const SPAN: u64 = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let orders = Arg::new("orders").value_parser(value_parser!(u64)).default_value("10000");
    let queue = Arg::new("queue").long("queue").default_value("farm").global(true);
    let arguments = Command::new("farm")
        .about("One producer and any number of workers; REDIS_URL says where the queue is, by default redis://127.0.0.1")
        .subcommand_required(true)
        .arg(queue.help("Name of the queue"))
        .subcommand(Command::new("work").about("Do what the queue has, until SIGTERM or Ctrl-C"))
        .subcommand(Command::new("produce").about("Put orders in, and wait for their results").arg(orders))
        .subcommand(Command::new("top").about("Show once a second what the queue has"))
        .get_matches();
    let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1".to_owned());
    let name: &String = arguments.get_one("queue").ok_or("no queue")?;
    let queue = patiently(|| RedisQueue::connect(&url, name))?;
    match arguments.subcommand() {
        Some(("work", _)) => work(&queue),
        Some(("produce", arguments)) => produce(&queue, *arguments.get_one("orders").ok_or("how many?")?),
        _ => top(&queue),
    }
}

fn work(queue: &RedisQueue) -> Result<(), Box<dyn std::error::Error>> {
    let catalog = Catalog::new().with("longest", |ctx, order| {
        let start = u64::from_le_bytes(order.payload().try_into()?);
        ctx.check()?; // a cancel, or the end of the program
        let longest = (start.max(1)..start + SPAN).map(|number| (steps(number), number)).max();
        let (steps, number) = longest.ok_or("no numbers")?;
        Ok([steps.to_le_bytes(), number.to_le_bytes()].concat())
    });
    let delegator = Delegator::builder().build()?;
    let options = Serve::options().lease(Duration::from_secs(10)).prefetch(64);
    let serving = delegator.serve(queue, &catalog, options)?;
    println!("{} workers are at work", delegator.workers().len());
    await_signal()?;
    let report = serving.stop(Shutdown::drain().within(Duration::from_secs(5)));
    println!("{} were finished since then, {} go back", report.completed, report.handed_back);
    Ok(())
}

fn produce(queue: &RedisQueue, count: u64) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let mut ids = Vec::new();
    for number in 0..count {
        let order = Order::new("longest").with_payload((number * SPAN).to_le_bytes()).with_attempts(3);
        ids.push(order.id());
        // The same order again: if its answer was lost and it is in, it is a duplicate of itself.
        match patiently(|| queue.enqueue(order.clone())) {
            Err(error) if error.duplicate_of() != Some(order.id()) => return Err(error.into()),
            _ => {}
        }
    }
    println!("{count} orders are in after {:.1?}", start.elapsed());
    let mut longest = (0, 0);
    for id in ids {
        let result =
            queue.result(id, Duration::from_secs(24 * 60 * 60))?.ok_or("nobody has done it in a day")??;
        let (steps, number) = result.split_at_checked(8).ok_or("a result of another kind")?;
        longest =
            longest.max((u64::from_le_bytes(steps.try_into()?), u64::from_le_bytes(number.try_into()?)));
    }
    let (steps, number) = longest;
    println!("{number} takes {steps} steps; known after {:.1?}", start.elapsed());
    Ok(())
}

fn top(queue: &RedisQueue) -> Result<(), Box<dyn std::error::Error>> {
    println!("{:>10} {:>10} {:>10} {:>10} {:>10}", "waiting", "delayed", "leased", "dead", "change");
    let mut before: Option<u64> = None;
    loop {
        let counts = patiently(|| queue.counts())?;
        let left = counts.waiting + counts.delayed + counts.leased;
        let change = i128::from(left) - i128::from(before.replace(left).unwrap_or(left));
        let line = format!(
            "{:>10} {:>10} {:>10} {:>10} {change:>+10}",
            counts.waiting, counts.delayed, counts.leased, counts.dead
        );
        writeln!(std::io::stdout(), "{line}")?;
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Tries again, for a minute, what may succeed later: the server is restarted, or the queue is full.
fn patiently<T>(mut call: impl FnMut() -> Result<T, QueueError>) -> Result<T, QueueError> {
    let start = Instant::now();
    loop {
        match call() {
            Err(error) if error.is_retryable() && start.elapsed() < Duration::from_secs(60) => {
                std::thread::sleep(Duration::from_millis(100));
            }
            answer => return answer,
        }
    }
}

fn steps(mut number: u64) -> u64 {
    let mut steps = 0;
    while number > 1 {
        number = if number % 2 == 0 { number / 2 } else { 3 * number + 1 };
        steps += 1;
    }
    steps
}

#[cfg(unix)]
fn await_signal() -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};

    let _ = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?.forever().next();
    Ok(())
}

#[cfg(not(unix))]
fn await_signal() -> std::io::Result<()> {
    loop {
        std::thread::park();
    }
}
