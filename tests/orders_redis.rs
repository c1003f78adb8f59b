//! The queue on a server: what it does, and what it survives. Each test starts a `redis-server` of its own on loopback, and
//! is skipped where there is none.
#![cfg(feature = "redis")]

mod common;
#[path = "common/server.rs"]
mod server;
#[path = "common/waits.rs"]
mod waits;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown::Both;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Counter, Gate, PATIENCE, eventually, watchdog, within};
use server::Server;
use workpath::{
    Catalog, Delegator, JobId, Lease, Order, OrderQueue, Priority, QueueErrorKind, RedisQueue, Renewal,
    Serve, Settlement, Shutdown, Verdict,
};

const LEASE: Duration = Duration::from_secs(30);

/// For tests of several processes, on a machine that does other things too.
const LONG: Duration = Duration::from_secs(120);

fn signal(process: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &process.id().to_string()]).status().unwrap().success());
}

fn lease_one(queue: &RedisQueue, lease: Duration) -> Lease {
    queue.lease(1, lease, PATIENCE).unwrap().remove(0)
}

fn settle(queue: &RedisQueue, lease: &Lease, verdict: Verdict) -> bool {
    queue.settle(vec![Settlement::new(lease, verdict)]).unwrap()[0]
}

fn counts(queue: &RedisQueue) -> (u64, u64, u64, u64) {
    let counts = queue.counts().unwrap();
    (counts.waiting, counts.delayed, counts.leased, counts.dead)
}

fn on_a_server(name: &str, test: waits::Test) {
    let Some(server) = Server::start(name, &[]) else { return };
    test(&server.queue());
}

waits::waits!(on_a_server);

#[test]
fn an_order_is_settled_once_whoever_asks() {
    let Some(server) = Server::start("once", &[]) else { return };
    let (producer, worker) = (server.queue(), server.queue());
    let order = Order::new("work").with_payload("p").with_value("k", "v").with_unique_key("u");
    producer.enqueue(order.clone()).unwrap();
    let lease = lease_one(&worker, LEASE);
    assert_eq!((lease.order.clone(), lease.deliveries, lease.failures), (order, 1, 0));
    assert_eq!(worker.renew(&[lease.token], LEASE).unwrap(), [Renewal::Held]);
    assert_eq!(producer.renew(&[lease.token], LEASE).unwrap(), [Renewal::Lost]);
    assert!(!settle(&producer, &lease, Verdict::Complete(vec![0])));
    let twice = vec![Settlement::new(&lease, Verdict::Complete(vec![1])); 2];
    assert_eq!(worker.settle(twice).unwrap(), [true, false]);
    assert!(!settle(&worker, &lease, Verdict::Complete(vec![2])));
    assert_eq!(producer.result(lease.order.id(), PATIENCE).unwrap(), Some(Ok(vec![1])));
    assert_eq!(producer.result(lease.order.id(), Duration::ZERO).unwrap(), Some(Ok(vec![1])));
    assert_eq!(counts(&producer), (0, 0, 0, 0));
}

#[test]
fn what_is_settled_together_may_be_far_apart_and_of_any_kind() {
    let Some(server) = Server::start("apart", &[]) else { return };
    let (queue, other) = (server.queue(), server.queue());
    let orders: Vec<Order> = (0..20).map(|_| Order::new("work")).collect();
    let ids: Vec<JobId> = orders.iter().map(Order::id).collect();
    assert!(queue.enqueue_all(orders.clone()).iter().all(Result::is_ok));
    // What is leased is not new, to nobody.
    let mut leases = queue.lease(8, LEASE, Duration::ZERO).unwrap();
    let foreign = other.lease(1, LEASE, Duration::ZERO).unwrap().remove(0);
    leases.extend(queue.lease(20, LEASE, Duration::ZERO).unwrap());
    let leased: Vec<JobId> =
        leases[..8].iter().chain([&foreign]).chain(&leases[8..]).map(|lease| lease.token.id).collect();
    assert_eq!(leased, ids);
    assert!(queue.enqueue_all(orders).iter().all(Result::is_err), "they are there");

    let done = |lease: &Lease, text: &str| Settlement::new(lease, Verdict::Complete(text.into()));
    let (first, last) = (&leases[0], &leases[18]);
    let all = vec![
        done(last, "last"),
        done(&foreign, "foreign"),
        done(first, "first"),
        Settlement::new(&leases[9], Verdict::Discard("no".to_owned())),
        Settlement::new(&leases[17], Verdict::Dead("dead".to_owned())),
        done(last, "again"),
        done(&leases[5], "fifth"),
    ];
    assert_eq!(queue.settle(all).unwrap(), [true, false, true, true, true, false, true]);
    let result = |lease: &Lease| queue.result(lease.token.id, Duration::ZERO).unwrap();
    assert_eq!(result(last), Some(Ok(b"last".to_vec())));
    assert_eq!(result(first), Some(Ok(b"first".to_vec())));
    assert_eq!(result(&leases[5]), Some(Ok(b"fifth".to_vec())));
    assert_eq!(result(&leases[9]), Some(Err("no".to_owned())));
    assert_eq!(result(&leases[17]), Some(Err("dead".to_owned())));
    assert_eq!(result(&foreign), None);
    assert_eq!(counts(&queue), (0, 0, 15, 1));
    assert!(settle(&other, &foreign, Verdict::Complete(vec![])));
    assert_eq!(server.results(&[last.token.id, first.token.id, foreign.token.id]), HashMap::from([(1, 3)]));
}

#[test]
fn a_lapsed_lease_goes_to_the_next_who_asks_alone() {
    let Some(server) = Server::start("lapse", &[]) else { return };
    let (one, two) = (server.queue(), server.queue());
    one.enqueue_all((0..3).map(|_| Order::new("work")).collect());
    let lapsed = one.lease(2, Duration::from_millis(20), PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    // Others have longer leases, and its end is its own matter all the same.
    let lost = two.lease(9, LEASE, PATIENCE).unwrap();
    assert_eq!(lost.iter().map(|lease| lease.deliveries).collect::<Vec<_>>(), [2]);
    assert_eq!(lost[0].order.id(), lapsed[0].order.id());
    assert_eq!(two.lease(9, LEASE, PATIENCE).unwrap()[0].deliveries, 2);
    assert_eq!(two.lease(9, LEASE, PATIENCE).unwrap()[0].deliveries, 1);
    assert_eq!(one.renew(&[lapsed[0].token], LEASE).unwrap(), [Renewal::Lost]);
    assert!(!settle(&one, &lapsed[0], Verdict::Release));
    assert!(settle(&two, &lost[0], Verdict::Release));
    // The same process has it a second time: its first lease is void.
    let third = lease_one(&two, Duration::from_millis(10));
    assert_eq!(third.deliveries, 2);
    let fourth = lease_one(&two, LEASE);
    assert_eq!((fourth.deliveries, fourth.order.id()), (3, third.order.id()));
    assert!(!settle(&two, &third, Verdict::Complete(vec![3])));
    assert!(settle(&two, &fourth, Verdict::Complete(vec![4])));
}

#[test]
fn what_was_lost_goes_alone_behind_the_urgent() {
    let Some(server) = Server::start("behind", &[]) else { return };
    let (one, two) = (server.queue(), server.queue());
    let lost = one.enqueue(Order::new("work")).unwrap();
    lease_one(&one, Duration::from_millis(3));
    let urgent = one.enqueue(Order::new("work").with_priority(Priority::High)).unwrap();
    let last = one.enqueue(Order::new("work")).unwrap();
    std::thread::sleep(Duration::from_millis(10));
    // The other has not looked for lost orders yet, so it does with its first look.
    for next in [urgent, lost, last] {
        let leases = two.lease(9, LEASE, PATIENCE).unwrap();
        assert_eq!(leases.iter().map(|lease| lease.token.id).collect::<Vec<_>>(), [next]);
    }
}

#[test]
fn a_look_that_leaves_something_calls_the_next_and_no_other_does() {
    let Some(server) = Server::start("leaves", &[]) else { return };
    let queue = server.queue();
    let calls = || server.run::<usize>(&["LLEN", "wp:{q}:n"]);
    let forget_calls = || server.run::<redis::Value>(&["DEL", "wp:{q}:n"]);
    for priority in [Priority::High, Priority::Normal, Priority::Low] {
        queue.enqueue(Order::new("work").with_priority(priority)).unwrap();
    }
    for left in [2, 1, 0] {
        forget_calls();
        lease_one(&queue, LEASE);
        assert_eq!(calls(), left.min(1), "{left} are left");
    }
    // What is on its last chance goes out alone, whatever else there is.
    let lapsed = queue.enqueue(Order::new("work")).unwrap();
    queue.lease(1, Duration::from_millis(1), PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let new = queue.enqueue(Order::new("work")).unwrap();
    forget_calls();
    let other = server.queue();
    let alone = other.lease(9, LEASE, PATIENCE).unwrap();
    assert_eq!(alone.iter().map(|lease| lease.order.id()).collect::<Vec<_>>(), [lapsed]);
    assert_eq!(calls(), 1);
    assert_eq!(lease_one(&other, LEASE).order.id(), new);
}

#[test]
fn what_is_handed_back_is_new_and_goes_out_at_once() {
    let Some(server) = Server::start("back", &[]) else { return };
    let (one, two) = (server.queue(), server.queue());
    one.enqueue_all((0..5).map(|_| Order::new("work")).collect());
    let leases = one.lease(5, LEASE, PATIENCE).unwrap();
    assert!(two.lease(5, LEASE, Duration::ZERO).unwrap().is_empty());
    let back = leases.iter().map(|lease| Settlement::new(lease, Verdict::Release)).collect::<Vec<_>>();
    assert_eq!(one.settle(back.clone()).unwrap(), [true; 5]);
    assert_eq!(one.settle(back.clone()).unwrap(), [false; 5]);
    assert_eq!(counts(&one), (5, 0, 0, 0));
    let again = two.lease(5, LEASE, Duration::ZERO).unwrap();
    assert_eq!(again.iter().map(|lease| lease.deliveries).collect::<Vec<_>>(), [1; 5]);
    assert_eq!(one.settle(back).unwrap(), [false; 5]);
    assert_eq!(counts(&one), (0, 0, 5, 0));
}

#[test]
fn retries_wait_and_dead_letters_can_be_requeued() {
    let Some(server) = Server::start("retry", &[]) else { return };
    let queue = server.queue();
    let id = queue.enqueue(Order::new("work").with_unique_key("u\0 \n")).unwrap();
    let twin = queue.enqueue(Order::new("work").with_unique_key("u\0 \n")).unwrap_err();
    assert_eq!((twin.kind(), twin.duplicate_of()), (QueueErrorKind::Duplicate, Some(id)));
    let again = Verdict::Retry { error: "no".into(), after: Duration::from_millis(300) };
    let started = Instant::now();
    assert!(settle(&queue, &lease_one(&queue, LEASE), again));
    assert_eq!(counts(&queue), (0, 1, 0, 0));
    let lease = lease_one(&queue, LEASE);
    assert!(started.elapsed() >= Duration::from_millis(299));
    assert_eq!((lease.failures, lease.deliveries), (1, 1));
    assert!(settle(&queue, &lease, Verdict::Dead("enough".into())));
    assert_eq!(queue.result(id, Duration::ZERO).unwrap(), Some(Err("enough".into())));
    let letter = queue.dead_letters(5).unwrap().remove(0);
    assert_eq!((letter.id, &*letter.reason, letter.failures, &*letter.operation), (id, "enough", 2, "work"));
    assert!(letter.died_at.elapsed().unwrap() < PATIENCE);
    // The key of a dead letter is free.
    let other = queue.enqueue(Order::new("work").with_unique_key("u\0 \n")).unwrap();
    assert_eq!(queue.requeue(id).unwrap_err().duplicate_of(), Some(other));
    assert!(queue.cancel(other).unwrap());
    assert!(queue.requeue(id).unwrap() && !queue.requeue(id).unwrap());
    assert_eq!(queue.result(id, Duration::ZERO).unwrap(), None);
    let lease = lease_one(&queue, LEASE);
    assert_eq!((lease.failures, counts(&queue)), (0, (0, 0, 1, 0)));
    assert!(settle(&queue, &lease, Verdict::Complete(vec![5])));
    assert_eq!(server.results(&[id]), HashMap::from([(1, 1)]));
}

#[test]
fn a_delayed_order_wakes_who_waits_when_it_is_due() {
    let Some(server) = Server::start("delay", &[]) else { return };
    let queue = server.queue();
    let waiting = queue.clone();
    let waits = std::thread::spawn(move || lease_one(&waiting, LEASE).order.id());
    eventually("it waits", || server.run::<String>(&["CLIENT", "LIST"]).contains("cmd=blpop"));
    let started = Instant::now();
    let late = queue.enqueue(Order::new("work").with_delay(LEASE)).unwrap();
    let soon = queue.enqueue(Order::new("work").with_delay(Duration::from_millis(200))).unwrap();
    assert_eq!(waits.join().unwrap(), soon);
    assert!((Duration::from_millis(190)..SLICE).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert!(queue.cancel(late).unwrap());
    assert_eq!(queue.result(late, PATIENCE).unwrap(), Some(Err("cancelled".into())));
}

/// How long who waits goes without a wake-up.
const SLICE: Duration = Duration::from_secs(5);

#[test]
fn the_urgent_go_first() {
    let Some(server) = Server::start("priority", &[]) else { return };
    let queue = server.queue();
    let priorities = [Priority::Low, Priority::Normal, Priority::High, Priority::Normal];
    let ids = priorities.map(|priority| queue.enqueue(Order::new("work").with_priority(priority)).unwrap());
    let leases = queue.lease(9, LEASE, Duration::ZERO).unwrap();
    let sequence: Vec<_> = leases.iter().map(|lease| lease.order.id()).collect();
    assert_eq!(sequence, [ids[2], ids[1], ids[3], ids[0]]);
    let settlements = leases.iter().map(|lease| Settlement::new(lease, Verdict::Complete(vec![]))).collect();
    assert_eq!(queue.settle(settlements).unwrap(), [true; 4]);
}

#[test]
fn results_are_kept_for_as_long_as_the_order_says() {
    let Some(server) = Server::start("ttl", &[]) else { return };
    let queue = server.queue();
    let ids: Vec<_> = [Duration::ZERO, Duration::from_millis(1), LEASE, Duration::MAX]
        .map(|ttl| queue.enqueue(Order::new("work").with_result_ttl(ttl)).unwrap())
        .into();
    let leases = queue.lease(4, LEASE, Duration::ZERO).unwrap();
    let settlements = leases.iter().map(|lease| Settlement::new(lease, Verdict::Complete(vec![7]))).collect();
    assert_eq!(queue.settle(settlements).unwrap(), [true; 4]);
    std::thread::sleep(Duration::from_millis(5));
    let results: Vec<_> = ids.iter().map(|id| queue.result(*id, Duration::from_millis(5)).unwrap()).collect();
    assert_eq!(results, [None, None, Some(Ok(vec![7])), Some(Ok(vec![7]))]);
    // To wait for it does not prolong it.
    let left: i64 = server.run(&["PTTL", &format!("wp:{{q}}:r:{}", ids[2])]);
    assert!((1..=30_000).contains(&left), "{left}");
    // "For ever" is a hundred years.
    let left: i64 = server.run(&["PTTL", &format!("wp:{{q}}:r:{}", ids[3])]);
    assert!((3_100_000_000_000..=3_153_600_000_000).contains(&left), "{left}");
}

#[test]
fn a_cancel_reaches_what_waits_and_tells_who_runs() {
    let Some(server) = Server::start("cancel", &[]) else { return };
    let queue = server.queue();
    let running = queue.enqueue(Order::new("work")).unwrap();
    let lease = lease_one(&queue, LEASE);
    let waiting = queue.enqueue(Order::new("work")).unwrap();
    assert!(queue.cancel(waiting).unwrap() && queue.cancel(running).unwrap());
    assert_eq!(queue.result(waiting, Duration::ZERO).unwrap(), Some(Err("cancelled".into())));
    assert!(!queue.cancel(waiting).unwrap());
    assert!(queue.lease(9, LEASE, Duration::ZERO).unwrap().is_empty());
    assert_eq!(queue.renew(&[lease.token], Duration::from_millis(1)).unwrap(), [Renewal::Cancelled]);
    // Lost, it is still cancelled, and does not go back.
    let lease = lease_one(&queue, Duration::from_millis(300));
    assert!(lease.cancelled);
    assert_eq!(queue.renew(&[lease.token], LEASE).unwrap(), [Renewal::Cancelled]);
    let together = [(); 2].map(|()| {
        queue.enqueue(Order::new("other")).unwrap();
        lease_one(&queue, LEASE)
    });
    let [again, back] = together.each_ref().map(|other| Settlement::new(other, Verdict::Release));
    let cancelled = Settlement::new(&lease, Verdict::Release);
    assert_eq!(queue.settle(vec![again, cancelled, back]).unwrap(), [true; 3]);
    assert_eq!(queue.result(running, Duration::ZERO).unwrap(), Some(Err("cancelled".into())));
    assert_eq!(counts(&queue), (2, 0, 0, 0));
    for other in together {
        assert!(queue.cancel(other.token.id).unwrap());
    }
    assert!(!queue.cancel(Order::new("unknown").id()).unwrap());
    assert_eq!(counts(&queue), (0, 0, 0, 0));
}

#[test]
fn what_is_too_much_is_refused() {
    let Some(server) = Server::start("full", &[]) else { return };
    let queue = RedisQueue::connect_with(&server.url(), "q", 2, 1 << 20).unwrap();
    let error = queue.enqueue(Order::new("store").with_payload(vec![0; 10_000_000])).unwrap_err();
    assert_eq!(error.kind(), QueueErrorKind::TooLarge);
    assert!(error.to_string().contains("10000000") && error.to_string().contains("1048576"), "{error}");
    let order = Order::new("work");
    queue.enqueue(order.clone()).unwrap();
    assert_eq!(queue.enqueue(order.clone()).unwrap_err().duplicate_of(), Some(order.id()));
    let orders = [Order::new("work").with_delay(LEASE), Order::new("work"), Order::new("")];
    let answers = queue.enqueue_all(orders.to_vec());
    let kinds: Vec<_> =
        answers.iter().map(|answer| answer.as_ref().err().map(|error| error.kind())).collect();
    assert_eq!(kinds, [None, Some(QueueErrorKind::Full), Some(QueueErrorKind::Invalid)]);
    // What is leased takes up room too.
    let lease = lease_one(&queue, LEASE);
    assert_eq!(queue.enqueue(Order::new("work")).unwrap_err().kind(), QueueErrorKind::Full);
    assert!(settle(&queue, &lease, Verdict::Complete(vec![])));
    queue.enqueue(Order::new("work")).unwrap();
}

#[test]
fn many_orders_at_once_are_answered_in_their_sequence() {
    let Some(server) = Server::start("many", &[]) else { return };
    let queue = server.queue();
    let orders: Vec<_> = (0..3000).map(|n| Order::new("work").with_payload(vec![7; n % 2 * 5000])).collect();
    let ids: Vec<_> = orders.iter().map(Order::id).collect();
    let answers: Vec<_> = queue.enqueue_all(orders).into_iter().map(Result::unwrap).collect();
    assert_eq!((answers, counts(&queue)), (ids, (3000, 0, 0, 0)));
}

#[test]
fn names_are_taken_as_they_are_or_refused_and_keys_stay_in_their_slot() {
    let Some(server) = Server::start("names", &[]) else { return };
    let long = "x".repeat(201);
    for name in ["", "{}", "a}b", "{", "nul\0", "line\n", &long] {
        let error = RedisQueue::connect(&server.url(), name).unwrap_err();
        assert_eq!(error.kind(), QueueErrorKind::Invalid, "{name:?}");
    }
    let names = ["a b", "größe 🎉", "*", "wp:q:s", "%d\\'\"", &long[..200]];
    for name in names {
        let queue = RedisQueue::connect(&server.url(), name).unwrap();
        let orders =
            [Order::new("a").with_unique_key("k"), Order::new("b").with_delay(LEASE), Order::new("c")];
        queue.enqueue_all(orders.to_vec());
        let leases = queue.lease(9, LEASE, Duration::ZERO).unwrap();
        assert_eq!(leases.len(), 2, "{name:?}");
        assert!(settle(&queue, &leases[0], Verdict::Complete(vec![])));
        assert!(settle(&queue, &leases[1], Verdict::Dead("no".into())));
    }
    for key in server.run::<Vec<String>>(&["KEYS", "*"]) {
        assert!(names.iter().any(|name| key.starts_with(&format!("wp:{{{name}}}:"))), "{key}");
    }
}

#[test]
fn who_may_not_is_told_so_and_no_password_gets_out() {
    let Some(server) = Server::start("denied", &["--requirepass", "sesame"]) else { return };
    let refused = |url: &str, kind| {
        let error = RedisQueue::connect(url, "mine").unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains("mine") && !text.contains("secret") && !text.contains("sesame"), "{text}");
        text
    };
    let at = format!("127.0.0.1:{}", server.port);
    let text = refused(&format!("redis://:secret@{at}"), QueueErrorKind::Denied);
    assert!(text.contains(&at), "{text}");
    refused(&format!("redis://{at}"), QueueErrorKind::Denied);
    refused("redis://:secret@127.0.0.1:1", QueueErrorKind::Unavailable);
    refused("http://:secret@127.0.0.1", QueueErrorKind::Invalid);
    refused(":secret@nonsense", QueueErrorKind::Invalid);
    refused("redis://:secret@127.0.0.1:x", QueueErrorKind::Invalid);
    refused("redis://:secret@127.0.0.1/secret", QueueErrorKind::Invalid);
    #[cfg(not(feature = "redis-tls"))]
    refused("rediss://:secret@127.0.0.1", QueueErrorKind::Invalid);
    let queue = RedisQueue::connect(&format!("redis://:sesame@{at}"), "mine").unwrap();
    assert!(!format!("{queue:?}").contains("sesame"), "{queue:?}");
}

#[test]
fn a_user_needs_no_more_than_the_keys_of_the_queue() {
    let Some(server) = Server::start("acl", &[]) else { return };
    let rules = ["ACL", "SETUSER", "worker", "on", ">pw", "~wp:{q}:*", "+@all", "-@dangerous", "-@admin"];
    server.run::<redis::Value>(&rules);
    let url = format!("redis://worker:pw@127.0.0.1:{}", server.port);
    let queue = RedisQueue::connect(&url, "q").unwrap();
    let waiting = queue.clone();
    let waits = std::thread::spawn(move || waiting.lease(1, LEASE, PATIENCE).unwrap().len());
    eventually("it is woken", || {
        queue.wake();
        waits.is_finished()
    });
    assert_eq!(waits.join().unwrap(), 0);
    queue.enqueue(Order::new("work").with_unique_key("k")).unwrap();
    assert!(settle(&queue, &lease_one(&queue, LEASE), Verdict::Dead("no".into())));
    let error = RedisQueue::connect(&url, "other").unwrap_err();
    assert_eq!(error.kind(), QueueErrorKind::Denied, "{error}");
}

#[test]
fn a_server_that_is_too_old_or_something_else_is_refused() {
    let answer = |info: &'static str| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = [0; 1000];
            let _ = connection.read(&mut request).unwrap();
            let _ = connection.write_all(info.as_bytes());
        });
        let error = RedisQueue::connect(&url, "q").unwrap_err();
        assert!(error.to_string().contains(&url["redis://".len()..]), "{error}");
        error
    };
    let old = answer("$20\r\nredis_version:6.0.16\r\n");
    assert_eq!(old.kind(), QueueErrorKind::Version);
    assert!(old.to_string().contains("6.0.16"), "{old}");
    assert_ne!(answer("$19\r\nredis_version:6.2.0\r\n").kind(), QueueErrorKind::Version);
    assert_eq!(answer("$0\r\n\r\n").kind(), QueueErrorKind::Version);
    assert_eq!(answer("-ERR unknown command 'INFO'\r\n").kind(), QueueErrorKind::Version);
    assert_eq!(answer("HTTP/1.1 400 Bad Request\r\n\r\n").kind(), QueueErrorKind::Corrupt);
    assert_eq!(answer("").kind(), QueueErrorKind::Unavailable);
}

#[test]
fn what_others_put_there_is_found_out() {
    let Some(server) = Server::start("foreign", &[]) else { return };
    let queue = server.queue();
    let id = queue.enqueue(Order::new("work")).unwrap();
    let entries: Vec<(String, Vec<Vec<u8>>)> = server.run(&["XRANGE", "wp:{q}:s:1", "-", "+"]);
    server.run::<redis::Value>(&["XDEL", "wp:{q}:s:1", &entries[0].0]);
    let text = id.to_string();
    let later = ["XADD", "wp:{q}:s:1", "*", "id", &text, "n", "0", "dl", "0", "b", "\x09x"];
    server.run::<redis::Value>(&later);
    server.run::<redis::Value>(&["XADD", "wp:{q}:s:1", "*", "hello", "world"]);
    let entries: Vec<(String, Vec<Vec<u8>>)> = server.run(&["XRANGE", "wp:{q}:s:1", "-", "+"]);
    server.run::<redis::Value>(&["HSET", "wp:{q}:i", &text, &format!("1 {} 1000 0 0 ", entries[0].0)]);
    let good = queue.enqueue(Order::new("work")).unwrap();
    assert_eq!(lease_one(&queue, LEASE).order.id(), good);
    let letters = queue.dead_letters(9).unwrap();
    let mut reasons: Vec<_> = letters.iter().map(|letter| &*letter.reason).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["an order of the unknown version 9", "not an order"]);
    assert!(!queue.requeue(id).unwrap());
    server.run::<redis::Value>(&["SET", "wp:{other}:s:0", "a string"]);
    let error = RedisQueue::connect(&server.url(), "other").unwrap_err();
    assert_eq!(error.kind(), QueueErrorKind::Corrupt, "{error}");
}

#[test]
fn a_server_that_is_emptied_or_forgets_the_scripts_is_set_up_again() {
    let Some(server) = Server::start("emptied", &[]) else { return };
    let queue = server.queue();
    queue.enqueue(Order::new("work")).unwrap();
    let lost = lease_one(&queue, LEASE);
    server.run::<redis::Value>(&["FLUSHALL"]);
    server.run::<redis::Value>(&["SCRIPT", "FLUSH"]);
    assert!(!settle(&queue, &lost, Verdict::Complete(vec![])));
    server.run::<redis::Value>(&["FLUSHALL"]);
    let waiting = queue.clone();
    let waits = std::thread::spawn(move || lease_one(&waiting, LEASE));
    std::thread::sleep(Duration::from_millis(20));
    server.run::<redis::Value>(&["FLUSHALL"]);
    server.run::<redis::Value>(&["SCRIPT", "FLUSH"]);
    let id = queue.enqueue(Order::new("work")).unwrap();
    let lease = waits.join().unwrap();
    assert_eq!(lease.order.id(), id);
    assert!(settle(&queue, &lease, Verdict::Complete(vec![1])));
}

#[test]
fn a_server_without_memory_refuses_orders_and_settles_what_it_has() {
    let Some(server) = Server::start("oom", &[]) else { return };
    let queue = server.queue();
    queue.enqueue(Order::new("work").with_result_ttl(Duration::ZERO)).unwrap();
    let lease = lease_one(&queue, LEASE);
    server.run::<redis::Value>(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = queue.enqueue(Order::new("work")).unwrap_err();
    assert_eq!(error.kind(), QueueErrorKind::Full, "{error}");
    server.run::<redis::Value>(&["CONFIG", "SET", "maxmemory", "0"]);
    assert!(settle(&queue, &lease, Verdict::Complete(vec![])));
}

#[test]
fn who_waits_is_woken_also_by_many_and_only_who_waits() {
    watchdog(|| {
        let Some(server) = Server::start("wake", &[]) else { return };
        let queue = server.queue();
        queue.wake();
        let waits: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                std::thread::spawn(move || queue.lease(1, LEASE, PATIENCE).unwrap().len())
            })
            .collect();
        let clients = || server.run::<String>(&["CLIENT", "LIST"]);
        eventually("three wait", || clients().matches("cmd=blpop").count() == 3);
        queue.wake();
        assert_eq!(waits.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>(), 0);
        // One wake-up for many orders reaches as many as it takes.
        let waits: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                std::thread::spawn(move || queue.lease(1, LEASE, PATIENCE).unwrap().len())
            })
            .collect();
        eventually("three wait", || clients().matches("cmd=blpop").count() == 3);
        let started = Instant::now();
        queue.enqueue_all((0..3).map(|_| Order::new("work")).collect());
        assert_eq!(waits.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>(), 3);
        assert!(started.elapsed() < SLICE, "{:?}", started.elapsed());
    });
}

#[test]
fn a_result_is_waited_for_by_many_and_across_a_restart() {
    within(LONG, || {
        let Some(mut server) = Server::start("await", &["--appendonly", "yes", "--appendfsync", "always"])
        else {
            return;
        };
        let (queue, other) = (server.queue(), server.queue());
        let id = queue.enqueue(Order::new("work")).unwrap();
        let waits: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                std::thread::spawn(move || queue.result(id, LONG).unwrap())
            })
            .collect();
        let lease = lease_one(&queue, LEASE);
        server.kill();
        assert_eq!(queue.enqueue(Order::new("work")).unwrap_err().kind(), QueueErrorKind::Unavailable);
        server.restart();
        eventually("it is back", || queue.counts().is_ok());
        // Its connection is from before.
        assert_eq!(other.counts().unwrap().leased, 1);
        assert!(settle(&queue, &lease, Verdict::Complete(vec![9])));
        for thread in waits {
            assert_eq!(thread.join().unwrap(), Some(Ok(vec![9])));
        }
    });
}

#[test]
fn a_stop_hands_back_what_has_not_started() {
    watchdog(|| {
        let Some(server) = Server::start("stop", &[]) else { return };
        let queue = server.queue();
        let (gate, started) = (Gate::new(), Gate::new());
        let (release, open) = (gate.clone(), started.clone());
        let catalog = Catalog::new().with("wait", move |_, _| {
            open.open();
            release.wait();
            Ok(Vec::new())
        });
        let delegator = Delegator::builder().workers(1).build().unwrap();
        let serving = delegator.serve(&queue, &catalog, Serve::options().prefetch(5)).unwrap();
        queue.enqueue_all((0..10).map(|_| Order::new("wait")).collect());
        started.wait();
        eventually("six are fetched", || queue.counts().unwrap().leased == 6);
        let stop = std::thread::spawn(move || serving.stop(Shutdown::drain()));
        eventually("five are back", || queue.counts().unwrap().leased == 1);
        gate.open();
        let report = stop.join().unwrap();
        assert_eq!((report.completed, report.handed_back, report.total()), (1, 5, 6));
        assert_eq!(queue.counts().unwrap().waiting, 9);
        let again = server.queue().lease(9, LEASE, Duration::ZERO).unwrap();
        assert!(again.len() == 9 && again.iter().all(|lease| lease.deliveries == 1), "{again:?}");
    });
}

#[test]
fn a_stop_does_not_wait_for_a_server_that_hangs() {
    watchdog(|| {
        let Some(server) = Server::start("hang", &[]) else { return };
        let queue = server.queue();
        let delegator = Delegator::builder().workers(1).build().unwrap();
        let serving = delegator.serve(&queue, &Catalog::new(), Serve::options()).unwrap();
        let clients = || server.run::<String>(&["CLIENT", "LIST"]);
        eventually("it waits for orders", || clients().contains("cmd=blpop"));
        signal(&server.process, "-STOP");
        let started = Instant::now();
        serving.stop(Shutdown::drain().within(Duration::from_millis(100)));
        let took = started.elapsed();
        signal(&server.process, "-CONT");
        assert!(took < Duration::from_secs(3), "{took:?}");
    });
}

#[test]
fn a_cancel_reaches_the_operation() {
    watchdog(|| {
        let Some(server) = Server::start("cooperate", &[]) else { return };
        let queue = server.queue();
        let started = Gate::new();
        let open = started.clone();
        let catalog = Catalog::new().with("long", move |ctx, _| {
            open.open();
            ctx.sleep(PATIENCE).map(|()| Vec::new())
        });
        let delegator = Delegator::builder().workers(1).build().unwrap();
        let options = Serve::options().lease(Duration::from_millis(300));
        let _serving = delegator.serve(&queue, &catalog, options).unwrap();
        let id = queue.enqueue(Order::new("long")).unwrap();
        started.wait();
        assert!(server.queue().cancel(id).unwrap());
        assert_eq!(queue.result(id, PATIENCE).unwrap(), Some(Err("cancelled".into())));
    });
}

#[test]
fn long_orders_outlive_their_leases_and_late_ones_are_dead() {
    watchdog(|| {
        let Some(server) = Server::start("long", &[]) else { return };
        let queue = server.queue();
        let runs = Counter::new();
        let counted = runs.clone();
        let catalog = Catalog::new().with("long", move |ctx, _| {
            counted.add();
            ctx.sleep(Duration::from_millis(1500)).map(|()| vec![1])
        });
        let late = queue.enqueue(Order::new("long").with_timeout(Duration::ZERO)).unwrap();
        let delegators = [(); 2].map(|()| Delegator::builder().workers(2).build().unwrap());
        let options = Serve::options().lease(Duration::from_millis(500));
        let serve =
            |delegator: &Delegator| delegator.serve(&server.queue(), &catalog, options.clone()).unwrap();
        let _servings = delegators.each_ref().map(serve);
        let ids: Vec<_> = (0..4).map(|_| queue.enqueue(Order::new("long")).unwrap()).collect();
        for id in ids {
            assert_eq!(queue.result(id, PATIENCE).unwrap(), Some(Ok(vec![1])));
        }
        assert_eq!(runs.get(), 4);
        assert_eq!(queue.result(late, PATIENCE).unwrap(), Some(Err("deadline exceeded".into())));
    });
}

/// A process that is gone with the test, and the runs that it tells of, by the orders.
struct Worker(Child, Option<JoinHandle<HashMap<String, usize>>>);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This test program again, as another process that serves until it is killed.
fn worker(server: &Server, lease: Duration) -> Worker {
    let process = Command::new(std::env::current_exe().unwrap())
        .args(["worker_that_is_killed", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env("WORKPATH_REDIS", server.url())
        .env("WORKPATH_LEASE", lease.as_millis().to_string())
        .stdout(Stdio::piped())
        .spawn();
    let mut process = process.unwrap();
    let out = BufReader::new(process.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut runs = HashMap::new();
        for line in out.lines().map_while(Result::ok) {
            if let Some(id) = line.split("ran ").nth(1) {
                *runs.entry(id.to_owned()).or_default() += 1;
            }
        }
        runs
    });
    Worker(process, Some(reader))
}

#[test]
#[ignore = "what other tests start and kill"]
fn worker_that_is_killed() {
    let Some(url) = std::env::var_os("WORKPATH_REDIS") else { return };
    let lease = Duration::from_millis(std::env::var("WORKPATH_LEASE").unwrap().parse().unwrap());
    let mut queue = RedisQueue::connect(url.to_str().unwrap(), "q");
    while queue.as_ref().is_err_and(|error| error.is_retryable()) {
        std::thread::sleep(Duration::from_millis(50));
        queue = RedisQueue::connect(url.to_str().unwrap(), "q");
    }
    let queue = queue.unwrap();
    let catalog = Catalog::new()
        .with("stamp", |_, order| {
            let time = u64::from(order.payload().first().copied().unwrap_or_default());
            std::thread::sleep(Duration::from_millis(time));
            println!("ran {}", order.id());
            Ok(std::process::id().to_string().into_bytes())
        })
        .with("abort", |_, _| std::process::abort());
    let delegator = Delegator::builder().workers(2).build().unwrap();
    let _serving = delegator.serve(&queue, &catalog, Serve::options().lease(lease).prefetch(8)).unwrap();
    println!("serving");
    loop {
        std::thread::park();
    }
}

/// Ends a worker, and counts the runs that it has had.
fn end(mut worker: Worker) -> HashMap<String, usize> {
    let _ = worker.0.kill();
    worker.1.take().unwrap().join().unwrap()
}

fn stamps(queue: &RedisQueue, count: usize, millis: u8) -> Vec<JobId> {
    let orders = (0..count).map(|_| Order::new("stamp").with_payload([millis])).collect();
    queue.enqueue_all(orders).into_iter().map(Result::unwrap).collect()
}

fn await_all(queue: &RedisQueue, ids: &[JobId]) {
    for id in ids {
        let result = queue.result(*id, LONG).unwrap();
        assert!(matches!(result, Some(Ok(_))), "{id}: {result:?}");
    }
}

#[test]
fn the_orders_of_a_worker_that_is_killed_pass_to_another() {
    within(LONG, || {
        let Some(server) = Server::start("killed", &[]) else { return };
        let queue = server.queue();
        let lease = Duration::from_millis(1500);
        let workers = [worker(&server, lease), worker(&server, lease)];
        let ids = stamps(&queue, 400, 5);
        eventually("some are done", || server.results(&ids).get(&1).is_some_and(|done| *done > 50));
        let [killed, other] = workers;
        let mut runs = end(killed);
        await_all(&queue, &ids);
        end(other).into_iter().for_each(|(id, count)| *runs.entry(id).or_default() += count);
        let again = runs.values().sum::<usize>() - runs.len();
        println!("{again} of {} ran again", ids.len());
        assert_eq!(server.results(&ids), HashMap::from([(1, 400)]));
        assert_eq!(counts(&queue), (0, 0, 0, 0));
        assert!(again <= 10, "{again}");
    });
}

#[test]
fn a_worker_that_sleeps_through_its_leases_settles_nothing() {
    within(LONG, || {
        let Some(server) = Server::start("asleep", &[]) else { return };
        let queue = server.queue();
        let sleeper = worker(&server, Duration::from_millis(500));
        let ids = stamps(&queue, 8, 250);
        eventually("it has them", || queue.counts().unwrap().leased == 8);
        signal(&sleeper.0, "-STOP");
        let other = worker(&server, Duration::from_millis(500));
        await_all(&queue, &ids);
        let before: Vec<_> = ids.iter().map(|id| queue.result(*id, Duration::ZERO).unwrap()).collect();
        signal(&sleeper.0, "-CONT");
        // It is at work again when it has done others.
        end(other);
        await_all(&queue, &stamps(&queue, 4, 1));
        let after: Vec<_> = ids.iter().map(|id| queue.result(*id, Duration::ZERO).unwrap()).collect();
        assert_eq!(before, after);
        assert_eq!(server.results(&ids), HashMap::from([(1, 8)]));
        let started_late =
            end(sleeper).into_iter().filter(|(id, _)| ids.iter().any(|known| known.to_string() == *id));
        assert!(started_late.count() <= 4, "what had not started was started with a lease that had ended");
    });
}

#[test]
fn poison_kills_so_many_workers_and_then_no_more() {
    within(LONG, || {
        let Some(server) = Server::start("poison", &[]) else { return };
        let queue = server.queue();
        let poison = queue.enqueue(Order::new("abort")).unwrap();
        let good = stamps(&queue, 20, 1);
        let mut deaths = 0;
        loop {
            let mut worker = worker(&server, Duration::from_millis(300));
            let is_dead = loop {
                if worker.0.try_wait().unwrap().is_some() {
                    break true;
                }
                let counts = queue.counts().unwrap();
                if counts.dead > 0 && counts.waiting + counts.leased == 0 {
                    break false;
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            end(worker);
            deaths += usize::from(is_dead);
            if !is_dead {
                break;
            }
            assert!(deaths < 9);
        }
        let letters = queue.dead_letters(9).unwrap();
        assert_eq!((deaths, letters.len(), letters[0].id), (3, 1, poison));
        assert!(letters[0].reason.starts_with("poison"), "{letters:?}");
        await_all(&queue, &good);
        assert_eq!(server.results(&good), HashMap::from([(1, 20)]));
    });
}

#[test]
fn a_server_that_is_killed_and_comes_back_has_everything() {
    within(LONG, || {
        // With `everysec`, a server on a slow disk answers before it has written.
        let Some(mut server) = Server::start("restart", &["--appendonly", "yes", "--appendfsync", "always"])
        else {
            return;
        };
        let queue = server.queue();
        let lease = Duration::from_secs(3);
        let workers = [worker(&server, lease), worker(&server, lease)];
        let producing = queue.clone();
        let (stop, stopped) = (Gate::new(), Counter::new());
        let (stops, counted) = (stop.clone(), stopped.clone());
        let producer = std::thread::spawn(move || {
            let (mut ids, mut twice) = (Vec::new(), Vec::new());
            while !stops.is_open() {
                let order = Order::new("stamp").with_payload([2]);
                let mut is_again = false;
                loop {
                    match producing.enqueue(order.clone()) {
                        Ok(_) if is_again => break twice.push(order.id()),
                        Ok(_) => break,
                        // An answer was lost.
                        Err(error) if error.duplicate_of() == Some(order.id()) => break,
                        Err(error) => assert!(error.is_retryable(), "{error}"),
                    }
                    is_again = true;
                    counted.add();
                    std::thread::sleep(Duration::from_millis(20));
                }
                ids.push(order.id());
            }
            (ids, twice)
        });
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(400));
            server.kill();
            std::thread::sleep(Duration::from_millis(300));
            server.restart();
        }
        std::thread::sleep(Duration::from_millis(300));
        stop.open();
        let (ids, twice) = producer.join().unwrap();
        assert!(stopped.get() > 0 && ids.len() > 100, "{} and {}", stopped.get(), ids.len());
        await_all(&queue, &ids);
        // One that was done before its producer, who had no answer, put it in again, is another.
        let once: Vec<JobId> = ids.iter().copied().filter(|id| !twice.contains(id)).collect();
        assert_eq!(server.results(&once), HashMap::from([(1, once.len())]), "{} again", twice.len());
        assert!(server.results(&twice).keys().all(|count| (1..=2).contains(count)));
        eventually("nothing is left", || counts(&queue) == (0, 0, 0, 0));
        workers.into_iter().for_each(|worker| drop(end(worker)));
    });
}

/// Passes on what clients and the server say, and breaks each connection off after so many bytes of either.
struct Proxy {
    port: u16,
    broken: Arc<AtomicUsize>,
}

impl Proxy {
    /// `limit` is asked for each connection; with `None` it lasts.
    fn start(to: u16, limit: impl Fn() -> Option<usize> + Send + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let broken = Arc::new(AtomicUsize::new(0));
        let breaks = Arc::clone(&broken);
        // It ends with the process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let left = limit().map(|limit| Arc::new(AtomicUsize::new(limit)));
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (left, breaks) = (left.clone(), Arc::clone(&breaks));
                    std::thread::spawn(move || {
                        let mut part = [0; 4096];
                        while let Ok(size) = from.read(&mut part) {
                            let before = left.as_ref().map(|left| {
                                left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(size)))
                                    .unwrap()
                            });
                            let passed = size.min(before.unwrap_or(size));
                            if to.write_all(&part[..passed]).is_err() || size == 0 {
                                break;
                            }
                            if passed < size {
                                breaks.fetch_add(1, Relaxed);
                                break;
                            }
                        }
                        let _ = (from.shutdown(Both), to.shutdown(Both));
                    });
                }
            }
        });
        Proxy { port, broken }
    }
}

#[test]
fn connections_that_break_off_anywhere_lose_nothing_and_settle_nothing_twice() {
    within(LONG, || {
        let Some(server) = Server::start("breaks", &[]) else { return };
        let seed = AtomicUsize::new(7);
        // The first is for connecting; enough for a few calls, and different each time.
        let proxy = Proxy::start(server.port, move || {
            let nth = seed.fetch_add(1, Relaxed);
            (nth > 7).then(|| 12_000 + nth.wrapping_mul(2_654_435_761) % 60_000)
        });
        let queue = RedisQueue::connect(&format!("redis://127.0.0.1:{}", proxy.port), "q").unwrap();
        let runs = Counter::new();
        let counted = runs.clone();
        let catalog = Catalog::new().with("echo", move |_, order| {
            counted.add();
            Ok(order.payload().to_vec())
        });
        let delegator = Delegator::builder().workers(2).build().unwrap();
        let options = Serve::options().lease(Duration::from_secs(2)).max_deliveries(1000);
        let serving = delegator.serve(&queue, &catalog, options).unwrap();
        let (mut ids, mut twice) = (Vec::new(), Vec::new());
        for n in 0..400_u32 {
            let order = Order::new("echo").with_payload(n.to_le_bytes());
            ids.push(order.id());
            let mut is_again = false;
            loop {
                match queue.enqueue(order.clone()) {
                    Ok(_) if is_again => break twice.push(order.id()),
                    Ok(_) => break,
                    Err(error) if error.duplicate_of() == Some(order.id()) => break,
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
                is_again = true;
            }
        }
        for (n, id) in ids.iter().enumerate() {
            let bytes = (n as u32).to_le_bytes().to_vec();
            assert_eq!(queue.result(*id, LONG).unwrap(), Some(Ok(bytes)));
        }
        let direct = server.queue();
        eventually("nothing is left", || counts(&direct) == (0, 0, 0, 0));
        assert!(serving.stop(Shutdown::drain()).stuck.is_empty());
        assert!(proxy.broken.load(Relaxed) > 3 && runs.get() >= ids.len());
        let once: Vec<JobId> = ids.iter().copied().filter(|id| !twice.contains(id)).collect();
        assert_eq!(server.results(&once), HashMap::from([(1, once.len())]));
    });
}

#[test]
fn a_server_that_only_reads_for_a_while_keeps_everything() {
    within(LONG, || {
        let Some(server) = Server::start("replica", &[]) else { return };
        let queue = server.queue();
        let release = Gate::new();
        let gate = release.clone();
        let catalog = Catalog::new().with("wait", move |_, order| {
            gate.wait();
            Ok(order.payload().to_vec())
        });
        let delegator = Delegator::builder().workers(2).build().unwrap();
        let serving = delegator.serve(&queue, &catalog, Serve::options()).unwrap();
        let orders = (0..20).map(|n| Order::new("wait").with_payload([n])).collect();
        let ids: Vec<JobId> = queue.enqueue_all(orders).into_iter().map(Result::unwrap).collect();
        eventually("some run", || counts(&queue).2 >= 2);
        // Of a master that nobody has heard of.
        server.run::<redis::Value>(&["REPLICAOF", "127.0.0.1", "1"]);
        let error = queue.enqueue(Order::new("wait")).unwrap_err();
        assert_eq!(error.kind(), QueueErrorKind::Unavailable, "{error}");
        release.open();
        assert_eq!(queue.result(ids[0], Duration::from_millis(50)).unwrap(), None);
        server.run::<redis::Value>(&["REPLICAOF", "NO", "ONE"]);
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(queue.result(*id, LONG).unwrap(), Some(Ok(vec![n as u8])));
        }
        assert_eq!(server.results(&ids), HashMap::from([(1, ids.len())]));
        assert!(serving.stop(Shutdown::drain()).stuck.is_empty());
        assert_eq!(counts(&queue), (0, 0, 0, 0));
    });
}

/// Certificates for loopback: of an authority that nobody knows, and of a server, signed by it. Nothing where there is no
/// `openssl`.
#[cfg(feature = "redis-tls")]
fn certificates(folder: &std::path::Path) -> Option<()> {
    let sign = |what: &[&str]| {
        let arguments = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let output = Command::new("openssl").args(arguments).args(what).current_dir(folder).output();
        let output =
            output.inspect_err(|error| eprintln!("SKIPPED, since there is no openssl: {error}")).ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(())
    };
    sign(&["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority"])?;
    let by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", "server.key", "-out", "server.pem"];
    let of = ["-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1"];
    sign(&[&by[..], &of, &["-addext", "basicConstraints=critical,CA:FALSE"]].concat())
}

#[test]
#[cfg(feature = "redis-tls")]
fn over_tls_the_server_must_show_that_it_is_the_one() {
    within(LONG, || {
        let Some(mut server) = Server::start("tls", &[]) else { return };
        let Some(()) = certificates(&server.folder) else { return };
        server.kill();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options =
            ["--tls-port", &port.to_string(), "--tls-auth-clients", "no", "--requirepass", "sesame"];
        let files =
            ["--tls-cert-file", "server.pem", "--tls-key-file", "server.key", "--tls-ca-cert-file", "ca.pem"];
        server.options = options.iter().chain(&files).map(|&option| option.to_owned()).collect();
        server.restart();
        let url = format!("rediss://:sesame@127.0.0.1:{port}");
        eventually("the server talks TLS", || TcpStream::connect(("127.0.0.1", port)).is_ok());

        let error = RedisQueue::connect(&url, "q").unwrap_err();
        assert_eq!(error.kind(), QueueErrorKind::Denied, "{error}");
        let text = error.to_string();
        assert!(text.contains("certificate") && text.contains(&port.to_string()), "{text}");
        assert!(!text.contains("sesame"), "{text}");
        // Whom to trust is read from the environment, once.
        let worker = |url: &str| {
            Command::new(std::env::current_exe().unwrap())
                .args(["who_trusts_the_authority", "--exact", "--ignored", "--nocapture"])
                .env("WORKPATH_REDIS", url)
                .env("SSL_CERT_FILE", server.folder.join("ca.pem"))
                .output()
                .unwrap()
        };
        let output = worker(&url);
        assert!(output.status.success(), "{output:?}");
        let output = worker(&url.replace("127.0.0.1", "localhost"));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("certificate") && !output.status.success(), "it has another name: {output:?}");
    });
}

#[test]
#[cfg(feature = "redis-tls")]
#[ignore = "what another test starts"]
fn who_trusts_the_authority() {
    let Some(url) = std::env::var_os("WORKPATH_REDIS") else { return };
    let queue = RedisQueue::connect(url.to_str().unwrap(), "q").unwrap_or_else(|error| {
        println!("{error}");
        std::process::exit(1)
    });
    let catalog = Catalog::new().with("echo", |_, order| Ok(order.payload().to_vec()));
    let delegator = Delegator::builder().workers(2).build().unwrap();
    let serving = delegator.serve(&queue, &catalog, Serve::options()).unwrap();
    for size in [0, 1, 1 << 20] {
        let payload = vec![7; size];
        let id = queue.enqueue(Order::new("echo").with_payload(payload.clone())).unwrap();
        assert_eq!(queue.result(id, PATIENCE).unwrap(), Some(Ok(payload)));
    }
    // It waits on one connection and is woken on another.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(serving.stop(Shutdown::drain()).completed, 0);
}

#[test]
fn a_cluster_is_asked_where_the_queue_is_and_nowhere_else() {
    within(LONG, || {
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000"];
        let Some(one) = Server::start("node-1", &options) else { return };
        let Some(other) = Server::start("node-2", &options) else { return };
        for (server, from, to) in [(&one, 0, 8192), (&other, 8192, 16384)] {
            let slots: Vec<String> = (from..to).map(|slot: u16| slot.to_string()).collect();
            let add: Vec<&str> =
                ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(|slot| &**slot)).collect();
            server.run::<redis::Value>(&add);
        }
        one.run::<redis::Value>(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string()]);
        eventually("they know each other", || {
            let is_whole = |server: &Server| {
                let info: String = server.run(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2")
            };
            is_whole(&one) && is_whole(&other)
        });
        let slot: u16 = one.run(&["CLUSTER", "KEYSLOT", "wp:{q}:i"]);
        let (here, there) = if slot < 8192 { (&one, &other) } else { (&other, &one) };
        let error = RedisQueue::connect(&there.url(), "q").unwrap_err();
        assert_eq!(error.kind(), QueueErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(&here.port.to_string()), "it says where: {error}");

        let queue = here.queue();
        let catalog = Catalog::new().with("work", |_, _| Ok(vec![1])).with("fail", |_, _| Err("no".into()));
        let delegator = Delegator::builder().workers(2).build().unwrap();
        let serving = delegator.serve(&queue, &catalog, Serve::options()).unwrap();
        let ids: Vec<_> = (0..300).map(|_| queue.enqueue(Order::new("work")).unwrap()).collect();
        await_all(&queue, &ids);
        let delayed = Order::new("work").with_delay(Duration::from_millis(5)).with_unique_key("k");
        await_all(&queue, &[queue.enqueue(delayed).unwrap()]);
        let dead = queue.enqueue(Order::new("fail").with_attempts(1)).unwrap();
        assert!(matches!(queue.result(dead, PATIENCE).unwrap(), Some(Err(_))));
        assert!(queue.requeue(dead).unwrap());
        assert!(matches!(queue.result(dead, PATIENCE).unwrap(), Some(Err(_))));
        assert!(!queue.cancel(dead).unwrap());
        serving.stop(Shutdown::drain());
        assert_eq!(counts(&queue), (0, 0, 0, 1));
    });
}

#[test]
fn thousands_are_put_in_and_settled_by_one_call() {
    let Some(server) = Server::start("thousands", &[]) else { return };
    let queue = server.queue();
    let orders: Vec<_> = (0..9000).map(|_| Order::new("work")).collect();
    assert!(queue.enqueue_all(orders).iter().all(Result::is_ok));
    let mut leases = Vec::new();
    while leases.len() < 9000 {
        leases.extend(queue.lease(9000, LEASE, PATIENCE).unwrap());
    }
    let done = leases.iter().map(|lease| Settlement::new(lease, Verdict::Complete(vec![1]))).collect();
    assert_eq!(queue.settle(done).unwrap(), [true; 9000]);
    assert_eq!(counts(&queue), (0, 0, 0, 0));
}

#[test]
fn a_lease_may_last_a_day_and_no_longer() {
    let Some(server) = Server::start("day", &[]) else { return };
    let queue = server.queue();
    queue.enqueue(Order::new("work")).unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    let error = queue.lease(1, day + Duration::from_millis(1), Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), QueueErrorKind::Invalid);
    let what = format!("the queue \"q\" at 127.0.0.1:{}", server.port);
    assert!(
        error.to_string().starts_with(&what) && format!("{queue:?}").contains("127.0.0.1"),
        "{error} {queue:?}"
    );
    assert_eq!(queue.lease(1, day, Duration::ZERO).unwrap().len(), 1);
}

#[test]
fn a_wait_for_a_result_ends_with_the_result_its_time_or_an_error_that_stays() {
    let Some(server) = Server::start("wait", &[]) else { return };
    let queue = server.queue();
    let id = queue.enqueue(Order::new("work")).unwrap();
    let lease = lease_one(&queue, LEASE);
    std::thread::scope(|scope| {
        let result = scope.spawn(|| queue.result(id, PATIENCE).unwrap());
        let waits = || {
            let clients: String = server.run(&["CLIENT", "LIST"]);
            let client = clients.lines().find(|line| line.contains("cmd=blmove"))?;
            Some(client.split_once(' ')?.0.strip_prefix("id=")?.to_owned())
        };
        eventually("it waits", || waits().is_some());
        // The server ends a wait before its time.
        let ended = waits().unwrap();
        assert_eq!(server.run::<i64>(&["CLIENT", "UNBLOCK", &ended]), 1);
        std::thread::sleep(common::BRIEF);
        assert!(settle(&queue, &lease, Verdict::Complete(vec![1])));
        assert_eq!(result.join().unwrap(), Some(Ok(vec![1])));
    });
    let other = Order::new("work").id();
    server.run::<redis::Value>(&["SET", &format!("wp:{{q}}:r:{other}"), "no list"]);
    let started = Instant::now();
    assert_eq!(queue.result(other, PATIENCE).unwrap_err().kind(), QueueErrorKind::Corrupt);
    assert!(started.elapsed() < SLICE);
}

#[test]
fn a_connection_to_what_has_become_a_replica_is_given_up() {
    let Some(server) = Server::start("replica", &[]) else { return };
    let queue = server.queue();
    queue.enqueue(Order::new("work")).unwrap();
    let is_kept = || server.run::<String>(&["CLIENT", "LIST"]).contains("cmd=evalsha");
    assert!(is_kept());
    server.run::<redis::Value>(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = queue.enqueue(Order::new("work")).unwrap_err();
    assert_eq!(error.kind(), QueueErrorKind::Unavailable, "{error}");
    eventually("the connection is closed", || !is_kept());
    server.run::<redis::Value>(&["REPLICAOF", "NO", "ONE"]);
    queue.enqueue(Order::new("work")).unwrap();
}

#[test]
fn calls_one_after_the_other_share_a_connection() {
    let Some(server) = Server::start("share", &[]) else { return };
    let connections = || -> usize {
        let info: String = server.run(&["INFO", "stats"]);
        let field = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        field.unwrap().trim().parse().unwrap()
    };
    let queue = server.queue();
    let before = connections();
    for _ in 0..20 {
        queue.enqueue(Order::new("work")).unwrap();
        lease_one(&queue, LEASE);
    }
    // The question has one of its own.
    assert_eq!(connections() - before, 1);
}

#[test]
fn a_server_that_is_emptied_alone_is_set_up_again() {
    let Some(server) = Server::start("groups", &[]) else { return };
    let queue = server.queue();
    queue.enqueue(Order::new("work")).unwrap();
    server.run::<redis::Value>(&["FLUSHALL"]);
    let id = queue.enqueue(Order::new("work")).unwrap();
    assert_eq!(lease_one(&queue, LEASE).order.id(), id);
    server.run::<redis::Value>(&["FLUSHALL"]);
    assert_eq!(counts(&queue), (0, 0, 0, 0));
}

#[test]
fn a_result_that_is_too_large_makes_a_dead_letter() {
    let Some(server) = Server::start("large", &[]) else { return };
    let queue = server.queue();
    let id = queue.enqueue(Order::new("work")).unwrap();
    assert!(settle(&queue, &lease_one(&queue, LEASE), Verdict::Complete(vec![0; (64 << 20) + 1])));
    assert_eq!(counts(&queue), (0, 0, 0, 1));
    let result = queue.result(id, Duration::ZERO).unwrap().unwrap().unwrap_err();
    assert!(result.contains("67108865 bytes") && result.contains("67108864"), "{result}");
}

#[test]
fn an_order_whose_answer_was_lost_is_in_once() {
    let Some(server) = Server::start("answer", &[]) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let (port, lose) = (server.port, Gate::new());
    let loses = lose.clone();
    // Passes everything on, but for one answer: with that the connection is gone.
    std::thread::spawn(move || {
        for (nth, client) in listener.incoming().enumerate() {
            let (mut client, mut upstream) =
                (client.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
            let (mut requests, mut out) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut requests, &mut out));
            let loses = loses.clone();
            std::thread::spawn(move || {
                let mut answer = [0; 65536];
                while let Ok(length @ 1..) = upstream.read(&mut answer) {
                    if nth == 0 && loses.is_open() {
                        break;
                    }
                    client.write_all(&answer[..length]).unwrap();
                }
                let _ = client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    let queue = RedisQueue::connect(&url, "q").unwrap();
    queue.enqueue(Order::new("work")).unwrap();
    lose.open();
    let order = Order::new("work").with_unique_key("k");
    assert_eq!(queue.enqueue(order.clone()).unwrap(), order.id());
    assert_eq!(counts(&queue), (2, 0, 0, 0));
    let twin = queue.enqueue(Order::new("work").with_unique_key("k")).unwrap_err();
    assert_eq!(twin.duplicate_of(), Some(order.id()));
    assert_eq!(queue.enqueue(order.clone()).unwrap_err().duplicate_of(), Some(order.id()));
}

/// Keeps the warnings of this process.
struct Warnings(Mutex<Vec<String>>);

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

static WARNINGS: Warnings = Warnings(Mutex::new(Vec::new()));

#[test]
fn a_server_that_may_throw_orders_away_is_warned_of() {
    log::set_logger(&WARNINGS).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let cases: [(&str, &[&str], bool); 4] = [
        ("plain", &[], false),
        ("evicts", &["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"], true),
        ("could", &["--maxmemory-policy", "allkeys-lru"], false),
        ("refuses", &["--maxmemory", "100mb"], false),
    ];
    for (name, options, is_warned_of) in cases {
        let Some(server) = Server::start(name, options) else { return };
        let _queue = server.queue();
        let port = format!(":{}: maxmemory-policy", server.port);
        let warnings = WARNINGS.0.lock().unwrap();
        assert_eq!(warnings.iter().any(|text| text.contains(&port)), is_warned_of, "{name}: {warnings:?}");
    }
}
