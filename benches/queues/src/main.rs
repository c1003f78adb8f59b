//! What queues of orders cost: `cargo run --release --manifest-path benches/queues/Cargo.toml [FOLDER]`. The files go to FOLDER,
//! by default the current one; put it on the disk that is to be measured.

use std::path::Path;
use std::time::{Duration, Instant};

use workpath::{
    Catalog, Delegator, Durability, Job, MemoryQueue, Order, OrderQueue, Serve, Shutdown, SqliteQueue,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let path = Path::new(&folder).join(format!("queues-{}.db", std::process::id()));
    for durability in [Durability::Process, Durability::Power] {
        for producers in [1, 8] {
            let queue = SqliteQueue::open_with(&path, durability, usize::MAX, 1 << 20)?;
            enqueue(&format!("sqlite, {durability:?}"), &queue, producers);
            drop(queue);
            remove(&path);
        }
    }
    enqueue("memory", &MemoryQueue::with_limits(usize::MAX, 1 << 20), 1);

    let jobs = 200_000;
    let delegator = Delegator::builder().build()?;
    let start = Instant::now();
    for _ in 0..jobs {
        let _ = delegator.submit(Job::new("noop", |_| Ok(Vec::new())))?;
    }
    delegator.wait_idle();
    report("direct submit", 1, jobs, start.elapsed());
    let catalog = Catalog::new().with("noop", |_, _| Ok(Vec::new()));
    let memory = MemoryQueue::with_limits(usize::MAX, 1 << 20);
    serve("memory, served", &delegator, &memory, &catalog, jobs)?;
    let queue = SqliteQueue::open(&path)?;
    serve("sqlite, Process, served", &delegator, &queue, &catalog, jobs)?;
    drop(queue);
    remove(&path);
    Ok(())
}

fn order() -> Order {
    Order::new("noop").with_payload([7; 100]).with_result_ttl(Duration::ZERO)
}

fn enqueue(name: &str, queue: &(impl OrderQueue + Clone), producers: u64) {
    let start = Instant::now();
    let count: u64 = std::thread::scope(|scope| {
        let producer = || {
            let mut count = 0;
            while start.elapsed() < Duration::from_secs(1) {
                queue.enqueue(order()).expect("room");
                count += 1;
            }
            count
        };
        let threads: Vec<_> = (0..producers).map(|_| scope.spawn(producer)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a producer")).sum()
    });
    report(&format!("enqueue: {name}"), producers, count, start.elapsed());
}

fn serve<Q: OrderQueue + Clone + 'static>(
    name: &str,
    delegator: &Delegator,
    queue: &Q,
    catalog: &Catalog,
    jobs: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    for _ in 0..jobs / 1000 {
        queue.enqueue_all((0..1000).map(|_| order()).collect());
    }
    let start = Instant::now();
    let serving = delegator.serve(queue, catalog, Serve::options().prefetch(256))?;
    while queue.counts()?.waiting + queue.counts()?.leased > 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    report(name, 1, jobs, start.elapsed());
    serving.stop(Shutdown::drain());
    Ok(())
}

fn report(name: &str, producers: u64, count: u64, time: Duration) {
    let rate = count as f64 / time.as_secs_f64();
    println!("{name:32} {producers} producers {rate:>12.0}/s");
}

fn remove(path: &Path) {
    for end in ["", "-wal", "-shm", "-lock"] {
        let _ = std::fs::remove_file(format!("{}{end}", path.display()));
    }
}
