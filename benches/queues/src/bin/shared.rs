//! What a queue on a server costs: `cargo run --release --manifest-path benches/queues/Cargo.toml --bin shared [FOLDER
//! [FSYNC]]` starts a `redis-server` on loopback, whose files go to FOLDER, by default the current one, with `appendfsync`
//! FSYNC, by default `everysec`.

use std::path::Path;
use std::time::{Duration, Instant};

use queues::Server;
use workpath::{Catalog, Delegator, Order, OrderQueue, RedisQueue, Serve, Settlement, Shutdown, Verdict};

const LEASE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| ".".to_owned());
    let fsync = arguments.next().unwrap_or_else(|| "everysec".to_owned());
    let server = Server::start(Path::new(&folder), &fsync)?;
    let url = server.url();
    let connect = |name: &str| RedisQueue::connect_with(&url, name, usize::MAX >> 1, 1 << 20);

    for round in 1..=3 {
        let queue = connect(&format!("q{round}"))?;
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < Duration::from_secs(1) {
            queue.enqueue(order(Duration::ZERO))?;
            count += 1;
        }
        report("enqueue, one at a time", count, start.elapsed());
        drain(&queue, 1)?;

        for (name, ttl) in [("without results", Duration::ZERO), ("with results", Duration::from_secs(60))] {
            let jobs = 100_000;
            let start = Instant::now();
            fill(&queue, jobs, ttl)?;
            report("enqueue_all of 1000", jobs, start.elapsed());
            let start = Instant::now();
            drain(&queue, 1)?;
            report(&format!("lease 64, settle 64, {name}"), jobs, start.elapsed());
            fill(&queue, jobs, ttl)?;
            let start = Instant::now();
            drain(&queue, 2)?;
            report(&format!("the same by two threads, {name}"), jobs, start.elapsed());
            for prefetch in [62, 256] {
                fill(&queue, jobs, ttl)?;
                let catalog = Catalog::new().with("noop", |_, _| Ok(Vec::new()));
                let delegator = Delegator::builder().workers(2).build()?;
                let start = Instant::now();
                let serving = delegator.serve(&queue, &catalog, Serve::options().prefetch(prefetch))?;
                loop {
                    let counts = queue.counts()?;
                    if counts.waiting + counts.leased == 0 {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                report(&format!("served, prefetch {prefetch}, {name}"), jobs, start.elapsed());
                serving.stop(Shutdown::drain());
            }
        }

        let catalog = Catalog::new().with("noop", |_, _| Ok(vec![1]));
        let delegator = Delegator::builder().workers(1).build()?;
        let serving = delegator.serve(&queue, &catalog, Serve::options())?;
        let mut times = Vec::new();
        for _ in 0..2000 {
            let start = Instant::now();
            let id = queue.enqueue(order(Duration::from_secs(60)))?;
            queue.result(id, LEASE)?.ok_or("no result")??;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        println!("{:40} p50 {p50:.0?}, p99 {p99:.0?}", "submit, run, result");
        serving.stop(Shutdown::drain());
    }
    Ok(())
}

fn order(ttl: Duration) -> Order {
    Order::new("noop").with_payload([7; 100]).with_result_ttl(ttl)
}

fn fill(queue: &RedisQueue, jobs: u64, ttl: Duration) -> Result<(), workpath::QueueError> {
    for _ in 0..jobs / 1000 {
        queue
            .enqueue_all((0..1000).map(|_| order(ttl)).collect())
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
    }
    Ok(())
}

/// Does everything in batches of 64, without running it.
fn drain(queue: &RedisQueue, threads: usize) -> Result<(), workpath::QueueError> {
    std::thread::scope(|scope| {
        let drain = || loop {
            let leases = queue.lease(64, LEASE, Duration::ZERO)?;
            if leases.is_empty() {
                return Ok(());
            }
            let settle = |lease| Settlement::new(lease, Verdict::Complete(Vec::new()));
            queue.settle(leases.iter().map(settle).collect())?;
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(drain)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread that drains"))
    })
}

fn report(name: &str, count: u64, time: Duration) {
    println!("{name:40} {:>10.0}/s", count as f64 / time.as_secs_f64());
}
