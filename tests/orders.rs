//! Orders and their bytes.
#![cfg(feature = "orders")]

mod common;
#[path = "common/waits.rs"]
mod waits;

use std::time::{Duration, Instant, SystemTime};

use common::eventually;
use workpath::{
    Catalog, DecodeError, Delegator, MemoryQueue, Order, OrderQueue, Priority, QueueError, QueueErrorKind,
    Settlement, Verdict,
};

fn in_memory(_: &str, test: waits::Test) {
    test(&MemoryQueue::new());
}

waits::waits!(in_memory);

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
    let error = Order::from_bytes(&bytes).unwrap_err();
    assert_eq!((error.clone(), error.unknown_version()), (DecodeError::Version(2), Some(2)));
    assert_eq!(Order::from_bytes(&[]).unwrap_err().unknown_version(), None);
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

#[test]
fn an_order_says_what_it_was_given() {
    let order = full();
    let time = |millis| Some(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
    assert_eq!((order.deadline(), order.not_before()), (time(0x0102_0304_0506), time(7)));
    assert_eq!(
        (order.value("width"), order.value(""), order.value("height")),
        (Some(&b"640"[..]), Some(&b""[..]), None)
    );
    assert_eq!(order.values().collect::<Vec<_>>(), [("width", &b"640"[..]), ("", b"")]);
    let plain = Order::new("work");
    assert_eq!((plain.deadline(), plain.not_before(), plain.value("width")), (None, None, None));
    assert_eq!((plain.attempts(), plain.result_ttl()), (25, Duration::from_secs(86_400)));
    let text = format!("{order:?}");
    assert!(
        text.contains("resize") && text.contains("width") && !text.contains("cat") && !text.contains("640"),
        "{text}"
    );
    let catalog = Catalog::new().with("resize", |_, _| Ok(Vec::new()));
    assert!(catalog.contains("resize") && !catalog.contains("work"));
    assert_eq!(format!("{catalog:?}"), "{\"resize\"}");
    let delegator = Delegator::builder().workers(1).build().unwrap();
    let order = Order::new("resize").with_value("k", "a value that is longer than its key");
    assert_eq!(delegator.submit(catalog.job(&order).unwrap()).unwrap().name(), "resize");
    assert_eq!(Order::from_bytes(&order.to_bytes()).unwrap(), order);
}

#[test]
fn the_first_of_several_deadlines_counts() {
    let hours = |hours: u64| Duration::from_secs(3600 * hours);
    let at = |order: &Order| order.deadline().unwrap().duration_since(SystemTime::now()).unwrap();
    for order in [
        Order::new("work").with_timeout(hours(2)).with_timeout(hours(1)),
        Order::new("work").with_timeout(hours(1)).with_timeout(hours(2)),
        Order::new("work").with_timeout(hours(1)).with_timeout(Duration::MAX),
    ] {
        assert!((hours(0)..=hours(1)).contains(&at(&order)), "{order:?}");
    }
    assert_eq!(Order::new("work").with_timeout(Duration::MAX).deadline(), None);
}

#[test]
fn a_requeued_order_keeps_a_deadline_that_has_not_passed() {
    let queue = MemoryQueue::new();
    let hour = Duration::from_secs(3600);
    for (timeout, is_kept) in [(hour, true), (Duration::ZERO, false)] {
        let order = Order::new("work").with_timeout(timeout).with_delay(Duration::ZERO);
        let id = queue.enqueue(order.clone()).unwrap();
        let lease = || queue.lease(1, hour, Duration::ZERO).unwrap().remove(0);
        queue.settle(vec![Settlement::new(&lease(), Verdict::Dead("no".into()))]).unwrap();
        assert!(queue.requeue(id).unwrap());
        assert_eq!(lease().order.deadline(), order.deadline().filter(|_| is_kept));
    }
}

#[test]
fn what_just_fits_is_taken() {
    let queue = MemoryQueue::with_limits(10, 10);
    let order = |payload: &'static str| Order::new("work").with_value("ke", "valu").with_payload(payload);
    queue.enqueue(order("1234")).unwrap();
    let error = queue.enqueue(order("12345")).unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (QueueErrorKind::TooLarge, false));
    assert!(error.to_string().contains("11 bytes"), "{error}");
    queue.enqueue(Order::new("x".repeat(Order::MAX_NAME))).unwrap();
    let kinds = [QueueErrorKind::Full, QueueErrorKind::Unavailable, QueueErrorKind::Corrupt];
    assert_eq!(kinds.map(|kind| QueueError::new(kind, "").is_retryable()), [true, true, false]);
    assert!(format!("{queue:?}").contains("orders: Some(2)"), "{queue:?}");
}
