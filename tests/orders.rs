//! Orders and their bytes.
#![cfg(feature = "orders")]

mod common;

use std::time::{Duration, Instant, SystemTime};

use common::eventually;
use workpath::{DecodeError, MemoryQueue, Order, OrderQueue, Priority, QueueErrorKind, Settlement, Verdict};

fn full() -> Order {
    Order::new("resize")
        .with_payload("cat.jpg")
        .with_value("width", "640")
        .with_value("", "")
        .with_deadline(SystemTime::UNIX_EPOCH + Duration::from_millis(0x0102_0304_0506))
        .with_not_before(SystemTime::UNIX_EPOCH + Duration::from_millis(7))
        .with_attempts(5)
        .with_priority(Priority::High)
        .with_result_ttl(Duration::from_millis(9))
        .with_unique_key("k")
}

fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [&[tag][..], &(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

/// Version 1, as it must stay.
fn golden(order: &Order) -> Vec<u8> {
    let created = order.created_at().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    [
        vec![1],
        field(1, uuid::Uuid::from(order.id()).as_bytes()),
        field(2, b"resize"),
        field(3, &created.to_le_bytes()),
        field(4, &[7, 0, 0, 0, 0, 0, 0, 0]),
        field(5, &[6, 5, 4, 3, 2, 1, 0, 0]),
        field(6, &[5, 0, 0, 0]),
        field(7, &[0]),
        field(8, &[9, 0, 0, 0, 0, 0, 0, 0]),
        field(9, b"k"),
        field(10, b"\x05\x00width640"),
        field(10, b"\x00\x00"),
        field(11, b"cat.jpg"),
    ]
    .concat()
}

#[test]
fn the_bytes_are_those_of_version_1() {
    let order = full();
    assert_eq!(order.to_bytes(), golden(&order));
    assert_eq!(Order::from_bytes(&golden(&order)).unwrap(), order);
}

#[test]
fn stored_bytes_can_still_be_read() {
    let bytes =
        b"\x01\x01\x10\0\0\0\x01\x99\0\0\0\0\x70\0\x80\0\0\0\0\0\0\x07\x02\x01\0\0\0a\x0b\x02\0\0\0hi";
    let order = Order::from_bytes(bytes).unwrap();
    assert_eq!(order.id().to_string(), "01990000-0000-7000-8000-000000000007");
    assert_eq!((order.operation(), order.payload(), order.attempts()), ("a", &b"hi"[..], 25));
}

#[test]
fn unknown_fields_are_skipped_and_unknown_versions_are_not() {
    let order = full();
    let mut bytes = order.to_bytes();
    bytes.extend(field(200, b"from the future"));
    assert_eq!(Order::from_bytes(&bytes).unwrap(), order);
    bytes[0] = 2;
    assert_eq!(Order::from_bytes(&bytes), Err(DecodeError::Version(2)));
}

#[test]
fn bytes_that_are_cut_or_changed_never_panic() {
    let bytes = full().to_bytes();
    for length in 0..bytes.len() {
        let _ = Order::from_bytes(&bytes[..length]);
        for byte in [0, 0xff] {
            let mut changed = bytes.clone();
            changed[length] = byte;
            let _ = Order::from_bytes(&changed);
        }
    }
}

#[test]
fn what_is_too_large_or_misnamed_is_refused_by_name() {
    let queue = MemoryQueue::new();
    let huge = queue.enqueue(Order::new("store").with_payload(vec![0; 10_000_000])).unwrap_err();
    assert_eq!(huge.kind(), QueueErrorKind::TooLarge);
    assert!(huge.to_string().contains("10000000 bytes") && huge.to_string().contains("store"), "{huge}");
    for order in [Order::new(""), Order::new("x".repeat(2000)), full()] {
        assert_eq!(queue.enqueue(order).unwrap_err().kind(), QueueErrorKind::Invalid);
    }
}

#[test]
fn the_first_out_is_by_priority_then_by_age() {
    let queue = MemoryQueue::new();
    for (name, priority) in
        [("c", Priority::Low), ("a", Priority::High), ("b", Priority::Normal), ("b2", Priority::Normal)]
    {
        queue.enqueue(Order::new(name).with_priority(priority)).unwrap();
    }
    let leases = queue.lease(9, Duration::from_secs(30), Duration::ZERO).unwrap();
    assert_eq!(leases.iter().map(|lease| lease.order.operation()).collect::<Vec<_>>(), ["a", "b", "b2", "c"]);
}

#[test]
fn the_result_of_a_requeued_order_is_kept_for_its_own_time() {
    const TTL: Duration = Duration::from_millis(400);
    let queue = MemoryQueue::new();
    let id = queue.enqueue(Order::new("work").with_result_ttl(TTL)).unwrap();
    let settle = |verdict| {
        let lease = queue.lease(1, Duration::from_secs(30), Duration::ZERO).unwrap().remove(0);
        assert_eq!(queue.settle(vec![Settlement::new(&lease, verdict)]).unwrap(), [true]);
    };
    settle(Verdict::Dead("no".into()));
    let first = Instant::now();
    std::thread::sleep(TTL / 2);
    assert!(queue.requeue(id).unwrap());
    let second = Instant::now();
    settle(Verdict::Complete(b"yes".to_vec()));
    std::thread::sleep(TTL.saturating_sub(first.elapsed()) + Duration::from_millis(2));
    let result = queue.result(id, Duration::ZERO).unwrap();
    // On a machine that stands still for long, it may be gone by now.
    if second.elapsed() < TTL {
        assert_eq!(result, Some(Ok(b"yes".to_vec())));
    }
    eventually("it is forgotten in the end", || queue.result(id, Duration::ZERO).unwrap().is_none());
}
