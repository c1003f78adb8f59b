//! The queue in a file beside effectum, which is one too:
//! `cargo run --release --manifest-path benches/queues/peers-sqlite/Cargo.toml [FOLDER [ROUNDS]]`. FOLDER and what is
//! printed are as in `benches/queues`, which is built and run for the rows of workpath, once in each round.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use effectum::{Error, Job, JobRunner, Queue, RunningJob, Worker};
use tokio::runtime::{Builder, Runtime};

const TIME: Duration = Duration::from_millis(500);
/// Fewer than in `benches/queues`, or it would take minutes.
const FILED: u64 = 2_000;

/// What a row measures: a rate, per second.
type Measure = fn(&Runtime, &Path) -> f64;

const ROWS: [(&str, Measure); 3] = [
    ("enqueue, 1 producer", |runtime, path| runtime.block_on(produce(path, 1))),
    ("enqueue, 8 producers", |runtime, path| runtime.block_on(produce(path, 8))),
    ("served", |runtime, path| runtime.block_on(serve(path))),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| ".".to_owned()));
    let rounds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let path = folder.join(format!("effectum-{}.db", std::process::id()));
    let mut rows: Vec<(String, Vec<f64>)> = Vec::new();
    let mut add = |name: String, rate| match rows.iter_mut().find(|(known, _)| *known == name) {
        Some((_, rates)) => rates.push(rate),
        None => rows.push((name, vec![rate])),
    };
    for _ in 0..rounds {
        for (name, rate) in workpath(&folder) {
            add(name, rate);
        }
        for mode in ["as it comes", "WAL"] {
            for (name, measure) in ROWS {
                if mode == "WAL" {
                    set_wal(&path);
                }
                // Two threads for the tasks, and one of effectum's own that writes: as many as workpath has.
                let runtime = Builder::new_multi_thread().worker_threads(2).enable_time().build();
                let runtime = runtime.expect("threads");
                add(format!("effectum, {mode}: {name}"), measure(&runtime, &path));
                runtime.shutdown_timeout(Duration::from_secs(5));
                for end in ["", "-wal", "-shm", "-journal"] {
                    let _ = std::fs::remove_file(format!("{}{end}", path.display()));
                }
            }
        }
    }
    println!("{:40} {:>10}   {:>10} {:>10}   per second", "", "median", "least", "most");
    for (name, mut rates) in rows {
        rates.sort_by(f64::total_cmp);
        let (median, last) = (rates[rates.len() / 2], rates[rates.len() - 1]);
        println!("{name:40} {median:>10.0}   {:>10.0} {last:>10.0}", rates[0]);
    }
}

/// One round of the other program.
fn workpath(folder: &Path) -> Vec<(String, f64)> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["run", "--quiet", "--release", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .arg("--")
        .arg(folder)
        .args(["1", "sqlite, "])
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo");
    assert!(output.status.success(), "benches/queues has failed");
    let text = String::from_utf8(output.stdout).expect("text");
    let row = |line: &str| {
        let (name, numbers) = line.split_at_checked(40)?;
        let name = name.trim().replacen("sqlite, ", "workpath, ", 1);
        Some((name, numbers.split_whitespace().next()?.parse().ok()?))
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// Effectum asks for a write-ahead log by a pragma that SQLite does not know (`journal`, for `journal_mode`), and so
/// has none. A file that has one already keeps it.
fn set_wal(path: &Path) {
    let db = rusqlite::Connection::open(path).expect("a file");
    let _: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).expect("a log");
}

fn job() -> Job {
    Job::builder("work").payload(vec![7; 100]).build()
}

async fn produce(path: &Path, producers: usize) -> f64 {
    let queue = Arc::new(Queue::new(path).await.expect("a queue"));
    let start = Instant::now();
    let producer = |queue: Arc<Queue>| async move {
        let mut count = 0;
        while start.elapsed() < TIME {
            queue.add_job(job()).await.expect("room");
            count += 1;
        }
        count
    };
    let tasks: Vec<_> = (0..producers).map(|_| tokio::spawn(producer(Arc::clone(&queue)))).collect();
    let mut count = 0;
    for task in tasks {
        count += task.await.expect("a producer");
    }
    let rate = rate(count, start);
    close(&queue).await;
    rate
}

/// Its writer panics if it is still there when the runtime goes.
async fn close(queue: &Queue) {
    queue.close(Duration::from_secs(5)).await.expect("an end");
}

async fn work(_: RunningJob, _: ()) -> Result<(), Error> {
    Ok(())
}

/// Jobs that are in the queue when it begins, until all are settled.
async fn serve(path: &Path) -> f64 {
    let queue = Queue::new(path).await.expect("a queue");
    for _ in 0..FILED / 1000 {
        queue.add_jobs((0..1000).map(|_| job()).collect()).await.expect("room");
    }
    let start = Instant::now();
    let worker = Worker::builder(&queue, ())
        .jobs(vec![JobRunner::builder("work", work).build()])
        .min_concurrency(128)
        .max_concurrency(256)
        .build();
    let worker = worker.await.expect("a worker");
    while worker.counts().finished < FILED {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let rate = rate(FILED, start);
    let left = queue.num_active_jobs().await.expect("a queue");
    assert_eq!((left.pending, left.running), (0, 0));
    close(&queue).await;
    rate
}

fn rate(count: u64, start: Instant) -> f64 {
    count as f64 / start.elapsed().as_secs_f64()
}
