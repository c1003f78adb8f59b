//! What queues of orders cost: `cargo run --release --manifest-path benches/queues/Cargo.toml [FOLDER [ROUNDS]]`. The
//! files go to FOLDER, by default the current one; put it on the disk that is to be measured. All rows are measured
//! once a round, one after the other, so that what else the machine does meets all alike; what is printed is the
//! median, and the least and the most.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use workpath::{
    Catalog, Delegator, Durability, Job, MemoryQueue, Order, OrderQueue, Serve, Settlement, Shutdown,
    SqliteQueue, Verdict,
};

const TIME: Duration = Duration::from_millis(500);
const JOBS: usize = 100_000;
const FILED: usize = 20_000;

/// What a row measures: a rate, per second.
type Measure = fn(&Path) -> f64;

const ROWS: [(&str, Measure); 15] = [
    ("bare insert, NORMAL, one at a time", |path| bare(path, false)),
    ("bare insert, FULL, one at a time", |path| bare(path, true)),
    ("sqlite, Process: enqueue, 1 producer", |path| enqueue(path, Durability::Process, 1)),
    ("sqlite, Process: enqueue, 8 producers", |path| enqueue(path, Durability::Process, 8)),
    ("sqlite, Power: enqueue, 1 producer", |path| enqueue(path, Durability::Power, 1)),
    ("sqlite, Power: enqueue, 8 producers", |path| enqueue(path, Durability::Power, 8)),
    ("sqlite, Process: lease 64, settle 64", |path| lease_and_settle(path, Durability::Process)),
    ("sqlite, Power: lease 64, settle 64", |path| lease_and_settle(path, Durability::Power)),
    ("sqlite, Process: served", |path| {
        let queue = open(path, Durability::Process);
        serve(&queue, FILED, |_| Ok(Vec::new()))
    }),
    ("sqlite, Power: served", |path| {
        let queue = open(path, Durability::Power);
        serve(&queue, FILED, |_| Ok(Vec::new()))
    }),
    ("memory: enqueue, 1 producer", |_| {
        let queue = MemoryQueue::with_limits(usize::MAX, 1 << 20);
        produce(&queue, 1)
    }),
    ("direct, nothing to do", |_| direct(JOBS, |_| Ok(Vec::new()))),
    ("memory: served, nothing to do", |_| serve(&memory(), JOBS, |_| Ok(Vec::new()))),
    ("direct, 5 us of work", |_| direct(JOBS / 4, busy)),
    ("memory: served, 5 us of work", |_| serve(&memory(), JOBS / 4, busy)),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| ".".to_owned()));
    let rounds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let only = arguments.next().unwrap_or_default();
    let path = folder.join(format!("queues-{}.db", std::process::id()));
    let rows: Vec<_> = ROWS.iter().filter(|(name, _)| name.contains(&only)).collect();
    let mut rates = vec![Vec::new(); rows.len()];
    for _ in 0..rounds {
        for ((_, measure), rates) in rows.iter().zip(&mut rates) {
            rates.push(measure(&path));
            for end in ["", "-wal", "-shm", "-lock"] {
                let _ = std::fs::remove_file(format!("{}{end}", path.display()));
            }
        }
    }
    queues::print(rows.iter().map(|(name, _)| *name).zip(rates));
}

fn order() -> Order {
    Order::new("work").with_payload([7; 100]).with_result_ttl(Duration::ZERO)
}

fn open(path: &Path, durability: Durability) -> SqliteQueue {
    SqliteQueue::open_with(path, durability, usize::MAX, 1 << 20).expect("a queue")
}

fn memory() -> MemoryQueue {
    MemoryQueue::with_limits(usize::MAX, 1 << 20)
}

/// The yardstick: a table of numbers and bytes, a statement, and no index.
fn bare(path: &Path, full: bool) -> f64 {
    let db = rusqlite::Connection::open(path).expect("a file");
    let mode = if full { "FULL" } else { "NORMAL" };
    let _: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).expect("a log");
    db.execute_batch(&format!(
        "PRAGMA synchronous = {mode}; CREATE TABLE t(seq INTEGER PRIMARY KEY, body BLOB)"
    ))
    .expect("a table");
    let mut insert = db.prepare("INSERT INTO t(body) VALUES(?1)").expect("a statement");
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < TIME {
        insert.execute([order().to_bytes()]).expect("room");
        count += 1;
    }
    rate(count, start)
}

fn enqueue(path: &Path, durability: Durability, producers: usize) -> f64 {
    produce(&open(path, durability), producers)
}

fn produce(queue: &impl OrderQueue, producers: usize) -> f64 {
    let start = Instant::now();
    let count = std::thread::scope(|scope| {
        let producer = || {
            let mut count = 0;
            while start.elapsed() < TIME {
                queue.enqueue(order()).expect("room");
                count += 1;
            }
            count
        };
        let threads: Vec<_> = (0..producers).map(|_| scope.spawn(producer)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a producer")).sum()
    });
    rate(count, start)
}

fn fill(queue: &impl OrderQueue, count: usize) {
    for _ in 0..count / 1000 {
        queue.enqueue_all((0..1000).map(|_| order()).collect());
    }
}

fn lease_and_settle(path: &Path, durability: Durability) -> f64 {
    let queue = open(path, durability);
    fill(&queue, FILED);
    let start = Instant::now();
    loop {
        let leases = queue.lease(64, Duration::from_secs(30), Duration::ZERO).expect("a queue");
        if leases.is_empty() {
            return rate(FILED, start);
        }
        let verdict = |lease| Settlement::new(lease, Verdict::Complete(Vec::new()));
        queue.settle(leases.iter().map(verdict).collect()).expect("a queue");
    }
}

type Work = fn(&[u8]) -> Result<Vec<u8>, workpath::Error>;

fn busy(_: &[u8]) -> Result<Vec<u8>, workpath::Error> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(5) {
        std::hint::spin_loop();
    }
    Ok(Vec::new())
}

/// Jobs with a payload, submitted and waited for one and all.
fn direct(jobs: usize, work: Work) -> f64 {
    let delegator = Delegator::builder().workers(2).build().expect("threads");
    let payloads: Vec<Vec<u8>> = (0..jobs).map(|_| vec![7; 100]).collect();
    let start = Instant::now();
    let submit =
        |payload: Vec<u8>| delegator.submit(Job::new("work", move |_| work(&payload))).expect("room");
    let handles: Vec<_> = payloads.into_iter().map(submit).collect();
    for handle in handles {
        handle.join().expect("a result");
    }
    rate(jobs, start)
}

/// Orders with a payload, which are in the queue when it begins, until all are settled.
fn serve<Q: OrderQueue + Clone + 'static>(queue: &Q, jobs: usize, work: Work) -> f64 {
    fill(queue, jobs);
    let catalog = Catalog::new().with("work", move |_, order| work(order.payload()));
    let delegator = Delegator::builder().workers(2).build().expect("threads");
    let start = Instant::now();
    let serving = delegator.serve(queue, &catalog, Serve::options().prefetch(256)).expect("threads");
    loop {
        let counts = queue.counts().expect("a queue");
        if counts.waiting + counts.leased == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let rate = rate(jobs, start);
    serving.stop(Shutdown::drain());
    rate
}

fn rate(count: usize, start: Instant) -> f64 {
    count as f64 / start.elapsed().as_secs_f64()
}
