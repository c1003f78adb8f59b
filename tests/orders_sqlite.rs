//! The queue in one file: what it does, and what it survives. Real processes are killed at random instants: 20 times,
//! or as often as `WORKPATH_KILLS` says.
#![cfg(feature = "sqlite")]

mod common;
#[path = "common/waits.rs"]
mod waits;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{PATIENCE, watchdog};
use workpath::{
    Catalog, Delegator, Durability, JobId, Order, OrderQueue, OrderResult, Priority, QueueErrorKind, Renewal,
    Serve, Settlement, Shutdown, SqliteQueue, Verdict,
};

const LEASE: Duration = Duration::from_secs(30);

/// A folder that is gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("workpath-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn db(&self) -> PathBuf {
        self.0.join("orders.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn lease_one(queue: &SqliteQueue, lease: Duration) -> workpath::Lease {
    queue.lease(1, lease, PATIENCE).unwrap().remove(0)
}

fn in_a_file(name: &str, test: waits::Test) {
    let folder = Folder::new(name);
    let queue = SqliteQueue::open(folder.db()).unwrap();
    test(&queue);
}

waits::waits!(in_a_file);

#[test]
fn orders_outlive_the_queue_and_leases_of_the_dead_do_not() {
    let folder = Folder::new("outlive");
    let queue = SqliteQueue::open(folder.db()).unwrap();
    let order = Order::new("work").with_payload("p").with_value("k", "v").with_unique_key("u");
    queue.enqueue(order.clone()).unwrap();
    let lost = lease_one(&queue, LEASE);
    drop(queue);
    let queue = SqliteQueue::open(folder.db()).unwrap();
    let lease = lease_one(&queue, LEASE);
    assert_eq!((lease.order.clone(), lease.deliveries, lease.failures), (order, 2, 0));
    assert_eq!(queue.renew(&[lost.token, lease.token], LEASE).unwrap(), [Renewal::Lost, Renewal::Held]);
    assert_eq!(queue.settle(vec![Settlement::new(&lost, Verdict::Complete(vec![0]))]).unwrap(), [false]);
    assert_eq!(queue.settle(vec![Settlement::new(&lease, Verdict::Complete(vec![1]))]).unwrap(), [true]);
    assert_eq!(queue.settle(vec![Settlement::new(&lease, Verdict::Complete(vec![2]))]).unwrap(), [false]);
    assert_eq!(queue.result(lease.order.id(), Duration::ZERO).unwrap(), Some(Ok(vec![1])));
}

#[test]
fn a_second_opener_leaves_the_leases_of_the_living_alone() {
    let folder = Folder::new("second");
    let first = SqliteQueue::open(folder.db()).unwrap();
    first.enqueue(Order::new("work")).unwrap();
    let lease = lease_one(&first, LEASE);
    let second = SqliteQueue::open(folder.db()).unwrap();
    assert!(second.lease(1, LEASE, Duration::ZERO).unwrap().is_empty());
    assert_eq!(first.renew(&[lease.token], LEASE).unwrap(), [Renewal::Held]);
    let id = second.enqueue(Order::new("more")).unwrap();
    assert_eq!(lease_one(&first, LEASE).order.id(), id);
}

#[test]
fn a_lapsed_lease_goes_to_the_next_who_asks() {
    let folder = Folder::new("lapse");
    let queue = SqliteQueue::open(folder.db()).unwrap();
    queue.enqueue(Order::new("work")).unwrap();
    let lapsed = lease_one(&queue, Duration::from_millis(20));
    let lease = lease_one(&queue, LEASE);
    assert_eq!(lease.deliveries, 2);
    assert_eq!(queue.settle(vec![Settlement::new(&lapsed, Verdict::Release)]).unwrap(), [false]);
    assert_eq!(queue.settle(vec![Settlement::new(&lease, Verdict::Release)]).unwrap(), [true]);
    assert_eq!(lease_one(&queue, LEASE).deliveries, 2);
}

#[test]
fn retries_wait_and_dead_letters_can_be_requeued() {
    let folder = Folder::new("retry");
    let queue = SqliteQueue::open(folder.db()).unwrap();
    let id = queue.enqueue(Order::new("work").with_unique_key("u")).unwrap();
    let twin = queue.enqueue(Order::new("work").with_unique_key("u")).unwrap_err();
    assert_eq!((twin.kind(), twin.duplicate_of()), (QueueErrorKind::Duplicate, Some(id)));
    let again = Verdict::Retry { error: "no".into(), after: Duration::from_millis(300) };
    let started = Instant::now();
    queue.settle(vec![Settlement::new(&lease_one(&queue, LEASE), again)]).unwrap();
    assert_eq!((queue.counts().unwrap().waiting, queue.counts().unwrap().delayed), (0, 1));
    let lease = lease_one(&queue, LEASE);
    // Times in the file are whole milliseconds.
    assert!(started.elapsed() >= Duration::from_millis(299));
    assert_eq!((lease.failures, lease.deliveries), (1, 1));
    queue.settle(vec![Settlement::new(&lease, Verdict::Dead("enough".into()))]).unwrap();
    assert_eq!(queue.result(id, Duration::ZERO).unwrap(), Some(Err("enough".into())));
    let letter = queue.dead_letters(5).unwrap().remove(0);
    assert_eq!((letter.id, &*letter.reason, letter.failures), (id, "enough", 2));
    // The key of a dead letter is free.
    let other = queue.enqueue(Order::new("work").with_unique_key("u")).unwrap();
    assert_eq!(queue.requeue(id).unwrap_err().duplicate_of(), Some(other));
    assert!(queue.cancel(other).unwrap());
    assert!(queue.requeue(id).unwrap() && !queue.requeue(id).unwrap());
    assert_eq!((lease_one(&queue, LEASE).failures, queue.counts().unwrap().dead), (0, 0));
}

#[test]
fn results_are_kept_for_as_long_as_the_order_says() {
    let folder = Folder::new("ttl");
    let queue = SqliteQueue::open(folder.db()).unwrap();
    let ids: Vec<_> = [Duration::ZERO, Duration::from_millis(1), LEASE]
        .map(|ttl| queue.enqueue(Order::new("work").with_result_ttl(ttl)).unwrap())
        .into();
    let leases = queue.lease(3, LEASE, Duration::ZERO).unwrap();
    let settlements = leases.iter().map(|lease| Settlement::new(lease, Verdict::Complete(vec![7]))).collect();
    assert_eq!(queue.settle(settlements).unwrap(), [true; 3]);
    std::thread::sleep(Duration::from_millis(5));
    let results: Vec<_> = ids.iter().map(|id| queue.result(*id, Duration::ZERO).unwrap()).collect();
    assert_eq!(results, [None, None, Some(Ok(vec![7]))]);
}

#[test]
fn an_order_of_an_unknown_version_is_a_dead_letter() {
    let folder = Folder::new("future");
    let queue = SqliteQueue::open(folder.db()).unwrap();
    let id = queue.enqueue(Order::new("work")).unwrap();
    let db = rusqlite::Connection::open(folder.db()).unwrap();
    db.execute("UPDATE orders SET body = x'0900'", []).unwrap();
    assert!(queue.lease(1, LEASE, Duration::ZERO).unwrap().is_empty());
    let letter = queue.dead_letters(1).unwrap().remove(0);
    assert_eq!((letter.id, &*letter.reason), (id, "an order of the unknown version 9"));
    assert!(!queue.requeue(id).unwrap());
}

#[test]
fn what_is_no_queue_is_refused_with_its_name() {
    let folder = Folder::new("refused");
    let refused = |path: &Path| {
        let error = SqliteQueue::open(path).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        error.kind()
    };
    let noise = folder.0.join("noise");
    std::fs::write(&noise, [7; 5000]).unwrap();
    assert_eq!(refused(&noise), QueueErrorKind::Corrupt);
    let other = folder.0.join("other");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
    assert_eq!(refused(&other), QueueErrorKind::Corrupt);
    drop(SqliteQueue::open(folder.db()).unwrap());
    rusqlite::Connection::open(folder.db()).unwrap().execute_batch("PRAGMA user_version = 9").unwrap();
    assert_eq!(refused(&folder.db()), QueueErrorKind::Version);
    assert_eq!(refused(&folder.0.join("no such folder").join("db")), QueueErrorKind::Denied);
}

#[test]
fn a_damaged_file_is_an_error_and_not_a_panic() {
    let folder = Folder::new("damaged");
    let queue = SqliteQueue::open(folder.db()).unwrap();
    queue.enqueue_all((0..500).map(|_| Order::new("work").with_payload([9; 100])).collect());
    drop(queue);
    let mut bytes = std::fs::read(folder.db()).unwrap();
    let length = bytes.len();
    bytes[4096..length].fill(0x5a);
    std::fs::write(folder.db(), bytes).unwrap();
    let outcome = SqliteQueue::open(folder.db()).and_then(|queue| queue.lease(100, LEASE, Duration::ZERO));
    assert_eq!(outcome.unwrap_err().kind(), QueueErrorKind::Corrupt);
}

#[test]
fn eight_producers_share_commits_and_lose_nothing() {
    let folder = Folder::new("producers");
    let queue = SqliteQueue::open_with(folder.db(), Durability::Power, usize::MAX, 1000).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let queue = queue.clone();
            scope.spawn(move || {
                for _ in 0..50 {
                    queue.enqueue(Order::new("work")).unwrap();
                }
            });
        }
    });
    assert_eq!(queue.counts().unwrap().waiting, 400);
    let large = queue.enqueue(Order::new("work").with_payload(vec![0; 1001])).unwrap_err();
    assert_eq!(large.kind(), QueueErrorKind::TooLarge);
}

#[test]
fn what_is_answered_is_committed() {
    let folder = Folder::new("committed");
    let all_in = Barrier::new(2);
    // A commit that waits for the disk is longer than a look.
    let queue = SqliteQueue::open_with(folder.db(), Durability::Power, usize::MAX, 1000).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let other = rusqlite::Connection::open(folder.db()).unwrap();
                other.busy_timeout(PATIENCE).unwrap();
                let mut states =
                    other.prepare("SELECT count(*), max(state) FROM orders WHERE id = ?1").unwrap();
                let mut look = |id: JobId| -> (i64, Option<i64>) {
                    let look = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
                    states.query_row([uuid::Uuid::from(id).as_bytes()], look).unwrap()
                };
                for _ in 0..100 {
                    let id = queue.enqueue(Order::new("work")).unwrap();
                    assert_eq!(look(id), (1, Some(0)), "acknowledged by word only");
                }
                all_in.wait();
                for _ in 0..100 {
                    let lease = lease_one(&queue, LEASE);
                    assert_eq!(look(lease.order.id()), (1, Some(2)), "leased by word only");
                    queue.settle(vec![Settlement::new(&lease, Verdict::Complete(vec![]))]).unwrap();
                    assert_eq!(look(lease.order.id()).0, 0, "settled by word only");
                }
            });
        }
    });
}

#[test]
fn two_queues_in_one_file_lose_nothing_while_both_have_much_to_do() {
    let folder = Folder::new("both");
    let open = || SqliteQueue::open(folder.db()).unwrap();
    let queues = [open(), open()];
    let done = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let queue = &queues[n % 2];
                scope.spawn(move || {
                    let mut done = Vec::new();
                    for _ in 0..1000 {
                        queue.enqueue(Order::new("work")).unwrap();
                        // Each finds at least its own, or what the others have left in its place.
                        let lease = lease_one(queue, LEASE);
                        let settled = Settlement::new(&lease, Verdict::Complete(vec![]));
                        assert_eq!(queue.settle(vec![settled]).unwrap(), [true]);
                        done.push(lease.order.id());
                    }
                    done
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<HashSet<JobId>>()
    });
    let counts = queues[0].counts().unwrap();
    assert_eq!((done.len(), counts.waiting, counts.leased), (4000, 0, 0));
}

/// How many bytes there are in the log of a queue after 30,000 orders, put in by so many threads, in batches of this size.
fn log_after(producers: usize, batch: usize, is_read: bool) -> u64 {
    let folder = Folder::new(&format!("log-{batch}"));
    let queue = SqliteQueue::open(folder.db()).unwrap();
    let left = AtomicUsize::new(producers);
    std::thread::scope(|scope| {
        if is_read {
            scope.spawn(|| {
                let other = rusqlite::Connection::open(folder.db()).unwrap();
                other.busy_timeout(PATIENCE).unwrap();
                let mut last = other.prepare("SELECT max(seq) FROM orders").unwrap();
                while left.load(Ordering::Relaxed) > 0 {
                    last.query_row([], |row| row.get::<_, Option<i64>>(0)).unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        for _ in 0..producers {
            scope.spawn(|| {
                let mut stored = 0;
                for _ in 0..30_000 / producers / batch {
                    let orders = (0..batch).map(|_| Order::new("work").with_payload([1; 700])).collect();
                    stored += queue.enqueue_all(orders).iter().filter(|answer| answer.is_ok()).count();
                }
                left.fetch_sub(1, Ordering::Relaxed);
                assert_eq!(stored, 30_000 / producers);
            });
        }
    });
    std::fs::metadata(folder.0.join("orders.db-wal")).unwrap().len()
}

#[test]
fn a_queue_that_is_never_idle_keeps_its_log_short() {
    // Of three who call there is always one to go on with.
    for (producers, batch, is_read) in [(3, 100, false), (1, 1, true)] {
        let length = log_after(producers, batch, is_read);
        assert!((8_000_000..20_000_000).contains(&length), "{length} bytes, in batches of {batch}");
    }
}

#[test]
fn an_idle_queue_leaves_the_whole_file_to_others() {
    let folder = Folder::new("idle");
    let queue = SqliteQueue::open(folder.db()).unwrap();
    let other = rusqlite::Connection::open(folder.db()).unwrap();
    other.busy_timeout(PATIENCE).unwrap();
    for _ in 0..20 {
        for _ in 0..20 {
            queue.enqueue(Order::new("work")).unwrap();
        }
        let busy: i64 = other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
        assert_eq!(busy, 0, "somebody still reads");
    }
}

#[test]
fn a_queue_takes_as_many_orders_as_it_is_told() {
    let folder = Folder::new("capacity");
    let queue = SqliteQueue::open_with(folder.db(), Durability::Process, 2, 1000).unwrap();
    let refused = |order: Order| queue.enqueue(order).unwrap_err();
    let answers = queue.enqueue_all((0..3).map(|_| Order::new("work")).collect());
    assert!(answers[0].is_ok() && answers[1].is_ok());
    let error = answers[2].clone().unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (QueueErrorKind::Full, true));
    assert!(error.to_string().contains("orders.db is full: it has 2 orders"), "{error}");
    // What is leased or delayed has a place; what is dead or done has none.
    let lease = lease_one(&queue, LEASE);
    assert_eq!(refused(Order::new("work")).kind(), QueueErrorKind::Full);
    queue.settle(vec![Settlement::new(&lease, Verdict::Dead("enough".into()))]).unwrap();
    queue.enqueue(Order::new("work").with_delay(LEASE)).unwrap();
    assert_eq!(refused(Order::new("work")).kind(), QueueErrorKind::Full);
    // Without a bound of its own, another opener goes on, and this one sees it in time.
    let other = SqliteQueue::open(folder.db()).unwrap();
    other.enqueue_all((0..5).map(|_| Order::new("work")).collect());
    assert_eq!((queue.counts().unwrap().waiting, queue.counts().unwrap().delayed), (6, 1));
    assert!(refused(Order::new("work")).to_string().contains("it has 7 orders"));
}

#[test]
fn what_is_too_large_is_refused_with_a_reason() {
    let folder = Folder::new("large");
    let queue = SqliteQueue::open(folder.db()).unwrap();
    let error = queue.enqueue(Order::new("upload").with_payload(vec![0; 10_000_000])).unwrap_err();
    assert_eq!(error.kind(), QueueErrorKind::TooLarge);
    let text = error.to_string();
    assert!(text.contains("\"upload\" has 10000000 bytes") && text.contains("takes 1048576"), "{text}");
    assert_eq!(queue.counts().unwrap().waiting, 0);
}

#[test]
fn a_file_that_cannot_be_written_is_refused_with_its_name() {
    let folder = Folder::new("read-only");
    drop(SqliteQueue::open(folder.db()).unwrap());
    // Root may write to every file; what nobody may write to is a folder in place of it.
    let mut permissions = std::fs::metadata(folder.db()).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(folder.db(), permissions).unwrap();
    if let Err(error) = SqliteQueue::open(folder.db()) {
        assert_eq!(error.kind(), QueueErrorKind::Denied);
        assert!(error.to_string().contains("orders.db"), "{error}");
    }
    let error = SqliteQueue::open(&folder.0).unwrap_err();
    assert_eq!(error.kind(), QueueErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("workpath-read-only"), "{error}");
}

#[test]
fn the_first_out_is_by_priority_then_by_age() {
    let folder = Folder::new("sequence");
    let queue = SqliteQueue::open(folder.db()).unwrap();
    let order = |priority| Order::new("work").with_priority(priority);
    let [retried, delayed, normal, low, high, last] = [
        order(Priority::Normal),
        order(Priority::Normal).with_delay(Duration::from_millis(1)),
        order(Priority::Normal),
        order(Priority::Low),
        order(Priority::High),
        order(Priority::Normal),
    ];
    let ids = [&high, &retried, &delayed, &normal, &last, &low].map(Order::id);
    queue.enqueue(retried).unwrap();
    let again = Verdict::Retry { error: "no".into(), after: Duration::ZERO };
    queue.settle(vec![Settlement::new(&lease_one(&queue, LEASE), again)]).unwrap();
    for order in [last, low, delayed, high, normal] {
        queue.enqueue(order).unwrap();
    }
    std::thread::sleep(Duration::from_millis(5));
    let leases = queue.lease(9, LEASE, Duration::ZERO).unwrap();
    assert_eq!(leases.iter().map(|lease| lease.order.id()).collect::<Vec<_>>(), ids);
    // What is handed back goes to where it was.
    let back = leases.iter().map(|lease| Settlement::new(lease, Verdict::Release)).collect();
    assert_eq!(queue.settle(back).unwrap(), [true; 6]);
    let leases = queue.lease(9, LEASE, Duration::ZERO).unwrap();
    assert_eq!(leases.iter().map(|lease| lease.order.id()).collect::<Vec<_>>(), ids);
}

#[test]
fn what_is_tried_again_keeps_its_place_among_the_priorities() {
    let folder = Folder::new("again");
    let queue = SqliteQueue::open(folder.db()).unwrap();
    assert!(format!("{queue:?}").contains("orders.db"), "{queue:?}");
    let order = |priority| queue.enqueue(Order::new("work").with_priority(priority)).unwrap();
    let again = || Verdict::Retry { error: "no".into(), after: Duration::ZERO };
    let tried = [Priority::Low, Priority::Normal, Priority::High].map(order);
    for _ in 0..2 {
        let leases = queue.lease(3, LEASE, PATIENCE).unwrap();
        assert_eq!(leases.len(), 3);
        queue.settle(leases.iter().map(|lease| Settlement::new(lease, again())).collect()).unwrap();
    }
    let new = [Priority::Low, Priority::Normal, Priority::High].map(order);
    let leases = queue.lease(9, LEASE, PATIENCE).unwrap();
    let ids: Vec<_> = leases.iter().map(|lease| lease.order.id()).collect();
    assert_eq!(ids, [tried[2], new[2], tried[1], new[1], tried[0], new[0]]);
}

#[test]
fn the_id_of_a_dead_letter_is_taken() {
    let folder = Folder::new("dead");
    let queue = SqliteQueue::open(folder.db()).unwrap();
    let order = Order::new("work");
    queue.enqueue(order.clone()).unwrap();
    assert_eq!(queue.enqueue(order.clone()).unwrap_err().duplicate_of(), Some(order.id()));
    queue.settle(vec![Settlement::new(&lease_one(&queue, LEASE), Verdict::Dead("enough".into()))]).unwrap();
    assert_eq!(queue.enqueue(order.clone()).unwrap_err().duplicate_of(), Some(order.id()));
    assert!(!queue.cancel(order.id()).unwrap() && queue.requeue(order.id()).unwrap());
    assert_eq!(lease_one(&queue, LEASE).order.id(), order.id());
}

#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let folder = Folder::new("full");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&folder.0)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no small file system can be mounted here");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let queue = SqliteQueue::open(folder.db()).unwrap();
        let mut stored = 0;
        let error = loop {
            match queue.enqueue(Order::new("work").with_payload([1; 1000])) {
                Ok(_) => stored += 1,
                Err(error) => break error,
            }
        };
        assert!(error.is_retryable(), "{error:?}");
        assert_eq!(queue.counts().unwrap().waiting, stored);
        drop(queue);
        let queue = SqliteQueue::open(folder.db());
        // A disk without any room cannot be opened for writing; the orders are in the file all the same.
        if let Ok(queue) = queue {
            assert_eq!(queue.counts().unwrap().waiting, stored);
        }
    });
    Command::new("umount").arg(&folder.0).status().unwrap();
    outcome.unwrap();
}

/// This test program again, as another process that runs the one test named.
fn child(test: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"]).env("WORKPATH_DB", path);
    command
}

fn catalog() -> Catalog {
    Catalog::new()
        .with("stamp", |_, _| {
            // Different at every run.
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_err(workpath::Error::new)?;
            Ok(format!("{} {}", std::process::id(), now.as_nanos()).into_bytes())
        })
        .with("abort", |_, _| std::process::abort())
}

#[test]
#[ignore = "what the kill test starts and kills"]
fn owner_that_is_killed() {
    let Some(path) = std::env::var_os("WORKPATH_DB") else { return };
    let queue = SqliteQueue::open(path).unwrap();
    let delegator = Delegator::builder().workers(2).build().unwrap();
    // Kills from outside are nobody's fault.
    let _serving =
        delegator.serve(&queue, &catalog(), Serve::options().prefetch(16).max_deliveries(1000)).unwrap();
    loop {
        println!("acked {}", queue.enqueue(Order::new("stamp")).unwrap());
    }
}

#[test]
fn a_kill_at_any_instant_loses_nothing_and_settles_nothing_twice() {
    let folder = Folder::new("kill");
    let rounds = std::env::var("WORKPATH_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let mut acked: Vec<JobId> = Vec::new();
    let mut seen: HashMap<JobId, OrderResult> = HashMap::new();
    let mut random = 0x9e37_79b9_u64 ^ u64::from(std::process::id());
    for round in 0..rounds {
        let mut owner = child("owner_that_is_killed", &folder.db()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(owner.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            let lines = out.lines().map_while(Result::ok);
            // The first may have the harness's own words before it. A line that was cut is no answer.
            let ids = lines.filter_map(|line| line.split("acked ").nth(1).and_then(|id| id.parse().ok()));
            ids.collect::<Vec<JobId>>()
        });
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(random >> 32 & 127));
        owner.kill().unwrap();
        owner.wait().unwrap();
        acked.extend(reader.join().unwrap());
        let queue = SqliteQueue::open(folder.db()).unwrap();
        for id in acked.iter().rev().take(500) {
            if let Some(result) = queue.result(*id, Duration::ZERO).unwrap() {
                let first = seen.entry(*id).or_insert_with(|| result.clone());
                assert_eq!(*first, result, "settled twice, by round {round}");
            }
        }
    }
    assert!(!acked.is_empty());
    let queue = SqliteQueue::open(folder.db()).unwrap();
    let delegator = Delegator::builder().workers(2).build().unwrap();
    let serving =
        delegator.serve(&queue, &catalog(), Serve::options().prefetch(64).max_deliveries(1000)).unwrap();
    let mut lost = 0;
    for id in &acked {
        match queue.result(*id, PATIENCE).unwrap() {
            Some(Ok(result)) => {
                if let Some(first) = seen.get(id) {
                    assert_eq!(*first, Ok(result), "settled twice");
                }
            }
            other => {
                lost += 1;
                eprintln!("{id}: {other:?}");
            }
        }
    }
    serving.stop(Shutdown::drain());
    let counts = queue.counts().unwrap();
    assert_eq!((lost, counts.leased, counts.dead), (0, 0, 0), "of {} in {rounds} rounds", acked.len());
}

#[test]
#[ignore = "what the poison test starts"]
fn owner_that_aborts() {
    let Some(path) = std::env::var_os("WORKPATH_DB") else { return };
    let queue = SqliteQueue::open(path).unwrap();
    let delegator = Delegator::builder().workers(2).build().unwrap();
    let _serving = delegator.serve(&queue, &catalog(), Serve::options()).unwrap();
    loop {
        let counts = queue.counts().unwrap();
        if counts.dead > 0 && counts.waiting + counts.leased == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn poison_kills_so_many_owners_and_then_no_more() {
    watchdog(|| {
        let folder = Folder::new("poison");
        let queue = SqliteQueue::open(folder.db()).unwrap();
        let poison = queue.enqueue(Order::new("abort")).unwrap();
        let good: Vec<_> = (0..20).map(|_| queue.enqueue(Order::new("stamp")).unwrap()).collect();
        drop(queue);
        let mut deaths = 0;
        while !child("owner_that_aborts", &folder.db()).stdout(Stdio::null()).status().unwrap().success() {
            deaths += 1;
            assert!(deaths < 9);
        }
        let queue = SqliteQueue::open(folder.db()).unwrap();
        let letters = queue.dead_letters(9).unwrap();
        assert_eq!((deaths, letters.len(), letters[0].id), (3, 1, poison));
        assert!(letters[0].reason.starts_with("poison"), "{letters:?}");
        assert!(good.iter().all(|id| matches!(queue.result(*id, Duration::ZERO), Ok(Some(Ok(_))))));
    });
}
