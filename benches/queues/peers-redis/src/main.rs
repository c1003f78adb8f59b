//! The queue on a server beside apalis-redis, which has one too:
//! `cargo run --release --manifest-path benches/queues/peers-redis/Cargo.toml [FOLDER [ROUNDS]]` starts a
//! `redis-server` on loopback, whose files go to FOLDER, by default the current one, with `appendfsync everysec`. All
//! rows are measured once a round, one after the other, so that what else the machine does meets all alike; what is
//! printed is the median, and the least and the most.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use apalis::layers::WorkerBuilderExt;
use apalis::prelude::{BoxDynError, Data, TaskSink, WorkerBuilder};
use apalis_redis::{Config, ConnectionManager, RedisStorage};
use queues::Server;
use tokio::runtime::Runtime;
use workpath::{Catalog, Delegator, Order, OrderQueue, RedisQueue, Serve, Shutdown};

const TIME: Duration = Duration::from_secs(1);
const JOBS: u64 = 50_000;
/// What is due, apalis moves to its list in one script call, which fails from some 8,000 on.
const FEW: u64 = 5_000;

/// How many orders a program has in hand at a time.
const IN_HAND: usize = 64;

type Payload = Vec<u8>;
type Storage = RedisStorage<Payload, ConnectionManager>;

/// What a row measures, on a queue of its own on this server: a rate, per second.
type Measure = fn(&str, &str) -> f64;

const ROWS: [(&str, Measure); 6] = [
    ("workpath: enqueue, one at a time", |url, name| {
        let queue = queue(url, name);
        produce(
            || {
                queue.enqueue(order()).expect("room");
            },
            1,
        )
    }),
    ("workpath: enqueue, 1000 at a time", |url, name| {
        let queue = queue(url, name);
        let orders = || (0..1000).map(|_| order()).collect();
        produce(|| assert!(queue.enqueue_all(orders()).iter().all(Result::is_ok)), 1000)
    }),
    ("workpath: served", workpath_serves),
    ("apalis: push, one at a time", |url, name| {
        let runtime = runtime();
        let mut storage = storage(&runtime, url, name, 10);
        produce(|| runtime.block_on(storage.push(payload())).expect("room"), 1)
    }),
    ("apalis: push, 1000 at a time", |url, name| {
        let runtime = runtime();
        let mut storage = storage(&runtime, url, name, 10);
        produce(|| runtime.block_on(storage.push_bulk(vec![payload(); 1000])).expect("room"), 1000)
    }),
    ("apalis: served", apalis_serves),
];

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| ".".to_owned());
    let rounds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let server = Server::start(Path::new(&folder), "everysec")?;
    let url = server.url();
    let mut rates = vec![Vec::new(); ROWS.len()];
    for round in 0..rounds {
        for (nth, (_, measure)) in ROWS.iter().enumerate() {
            rates[nth].push(measure(&url, &format!("q{round}-{nth}")));
        }
    }
    queues::print(ROWS.iter().map(|(name, _)| *name).zip(rates));
    Ok(())
}

fn payload() -> Payload {
    vec![7; 100]
}

fn rate(count: u64, start: Instant) -> f64 {
    count as f64 / start.elapsed().as_secs_f64()
}

fn produce(mut put: impl FnMut(), at_once: u64) -> f64 {
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        put();
        count += at_once;
    }
    rate(count, start)
}

fn await_count(counter: &AtomicU64, count: u64) {
    while counter.load(Ordering::Acquire) < count {
        std::thread::sleep(Duration::from_micros(20));
    }
}

fn queue(url: &str, name: &str) -> RedisQueue {
    RedisQueue::connect_with(url, name, usize::MAX >> 1, 1 << 20).expect("a queue")
}

fn order() -> Order {
    Order::new("work").with_payload(payload())
}

/// Orders that are there when it begins, until all have run; with results, since apalis keeps them as well.
fn workpath_serves(url: &str, name: &str) -> f64 {
    let queue = queue(url, name);
    for _ in 0..JOBS / 1000 {
        queue.enqueue_all((0..1000).map(|_| order()).collect());
    }
    let (catalog, ran) = workpath_worker();
    let delegator = Delegator::builder().workers(2).build().expect("threads");
    let start = Instant::now();
    let serving = delegator.serve(&queue, &catalog, Serve::options().prefetch(IN_HAND - 2)).expect("threads");
    await_count(&ran, JOBS);
    let rate = rate(JOBS, start);
    serving.stop(Shutdown::drain());
    rate
}

fn workpath_worker() -> (Catalog, Arc<AtomicU64>) {
    let ran = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&ran);
    let work = move |_: &workpath::Context, _: &Order| {
        count.fetch_add(1, Ordering::AcqRel);
        Ok(Vec::new())
    };
    (Catalog::new().with("work", work), ran)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads")
}

fn storage(runtime: &Runtime, url: &str, name: &str, batch: usize) -> Storage {
    let connection = runtime.block_on(apalis_redis::connect(url)).expect("a server");
    RedisStorage::new(connection).with_config(Config::default().queue(name).batch_size(batch))
}

async fn work(_: Payload, ran: Data<Arc<AtomicU64>>) -> Result<(), BoxDynError> {
    ran.fetch_add(1, Ordering::AcqRel);
    Ok(())
}

fn apalis_serves(url: &str, name: &str) -> f64 {
    let runtime = runtime();
    let mut storage = storage(&runtime, url, name, IN_HAND);
    for _ in 0..FEW / 1000 {
        runtime.block_on(storage.push_bulk(vec![payload(); 1000])).expect("room");
    }
    let start = Instant::now();
    let (ran, stop) = apalis_worker(&runtime, storage);
    await_count(&ran, FEW);
    let rate = rate(FEW, start);
    stop();
    rate
}

fn apalis_worker(runtime: &Runtime, storage: Storage) -> (Arc<AtomicU64>, impl FnOnce()) {
    let ran = Arc::new(AtomicU64::new(0));
    let worker =
        WorkerBuilder::new("worker").backend(storage).concurrency(IN_HAND).data(Arc::clone(&ran)).build(work);
    let running = runtime.spawn(worker.run());
    (ran, move || running.abort())
}
