//! What every queue of orders does for those who wait. `waits!` makes a test of each, of a queue that the function with the
//! name given to it opens.

use std::time::{Duration, Instant};

use workpath::{Lease, Order, OrderQueue, Settlement, Verdict};

use crate::common::{BRIEF, PATIENCE, eventually};

/// Far less than a wait that nobody ends, and far more than one that somebody does.
const SOON: Duration = Duration::from_secs(5);

const LEASE: Duration = Duration::from_secs(60);

pub(crate) type Test = fn(&dyn OrderQueue);

macro_rules! waits {
    ($with:ident: $($name:ident)*) => { $(
        #[test]
        fn $name() {
            super::$with(stringify!($name), crate::waits::$name);
        }
    )* };
    ($with:ident) => {
        mod waiting {
            crate::waits::waits!($with: an_order_and_its_result_reach_who_waits_at_once
                a_wake_ends_the_waits_for_orders_and_no_others
                a_wake_is_for_those_who_wait_then
                a_cancel_reaches_who_waits_for_the_result
                a_delayed_order_and_a_lapsed_lease_reach_who_waits_in_time
                who_asks_for_nothing_does_not_wait);
        }
    };
}
pub(crate) use waits;

fn one(queue: &dyn OrderQueue) -> Lease {
    queue.lease(1, LEASE, PATIENCE).unwrap().remove(0)
}

fn complete(queue: &dyn OrderQueue, lease: &Lease) {
    let done = Settlement::new(lease, Verdict::Complete(lease.order.payload().to_vec()));
    assert_eq!(queue.settle(vec![done]).unwrap(), [true]);
}

pub(crate) fn an_order_and_its_result_reach_who_waits_at_once(queue: &dyn OrderQueue) {
    const ROUNDS: u8 = 100;
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..ROUNDS).for_each(|_| complete(queue, &one(queue))));
        for n in 0..ROUNDS {
            let id = queue.enqueue(Order::new("work").with_payload([n])).unwrap();
            assert_eq!(queue.result(id, PATIENCE).unwrap(), Some(Ok(vec![n])));
        }
    });
    assert!(started.elapsed() < 2 * SOON, "{:?}", started.elapsed());
}

pub(crate) fn a_wake_ends_the_waits_for_orders_and_no_others(queue: &dyn OrderQueue) {
    let id = queue.enqueue(Order::new("work").with_payload([7])).unwrap();
    let lease = one(queue);
    std::thread::scope(|scope| {
        let result = scope.spawn(|| queue.result(id, PATIENCE).unwrap());
        let started = Instant::now();
        let taker = scope.spawn(|| queue.lease(1, LEASE, PATIENCE).unwrap());
        eventually("it is woken", || {
            queue.wake();
            taker.is_finished()
        });
        assert!(taker.join().unwrap().is_empty() && started.elapsed() < SOON);
        std::thread::sleep(BRIEF);
        queue.wake();
        complete(queue, &lease);
        assert_eq!(result.join().unwrap(), Some(Ok(vec![7])));
    });
}

pub(crate) fn a_wake_is_for_those_who_wait_then(queue: &dyn OrderQueue) {
    assert!(queue.lease(1, LEASE, Duration::ZERO).unwrap().is_empty());
    queue.wake();
    std::thread::scope(|scope| {
        let taker = scope.spawn(|| one(queue));
        std::thread::sleep(BRIEF);
        let id = queue.enqueue(Order::new("work")).unwrap();
        let lease = taker.join().unwrap();
        assert_eq!(lease.order.id(), id);
        complete(queue, &lease);
    });
}

pub(crate) fn a_cancel_reaches_who_waits_for_the_result(queue: &dyn OrderQueue) {
    let id = queue.enqueue(Order::new("work")).unwrap();
    let started = Instant::now();
    std::thread::scope(|scope| {
        let result = scope.spawn(|| queue.result(id, PATIENCE).unwrap());
        std::thread::sleep(BRIEF);
        assert!(queue.cancel(id).unwrap());
        assert_eq!(result.join().unwrap(), Some(Err("cancelled".into())));
    });
    assert!(started.elapsed() < SOON);
}

pub(crate) fn a_delayed_order_and_a_lapsed_lease_reach_who_waits_in_time(queue: &dyn OrderQueue) {
    let started = Instant::now();
    std::thread::scope(|scope| {
        let taker = scope.spawn(|| one(queue));
        std::thread::sleep(BRIEF);
        queue.enqueue(Order::new("work").with_delay(Duration::from_millis(100))).unwrap();
        let counts = queue.counts().unwrap();
        if started.elapsed() < Duration::from_millis(100) {
            assert_eq!((counts.waiting, counts.delayed, counts.leased), (0, 1, 0));
        }
        let lease = taker.join().unwrap();
        assert!((Duration::from_millis(99)..SOON).contains(&started.elapsed()), "{:?}", started.elapsed());
        complete(queue, &lease);
    });
    queue.enqueue(Order::new("work")).unwrap();
    let started = Instant::now();
    let lapsed = queue.lease(1, Duration::from_millis(50), PATIENCE).unwrap().remove(0);
    // How often a queue looks for lapsed leases may depend on the lease that is wanted.
    let lease = queue.lease(1, Duration::from_secs(3), PATIENCE).unwrap().remove(0);
    assert!(
        (Duration::from_millis(49)..Duration::from_secs(9)).contains(&started.elapsed()),
        "{:?}",
        started.elapsed()
    );
    assert_eq!((lease.order.id(), lease.deliveries), (lapsed.order.id(), 2));
    complete(queue, &lease);
}

pub(crate) fn who_asks_for_nothing_does_not_wait(queue: &dyn OrderQueue) {
    let started = Instant::now();
    assert!(queue.lease(0, LEASE, PATIENCE).unwrap().is_empty());
    assert!(started.elapsed() < SOON);
    queue.enqueue(Order::new("work")).unwrap();
    assert!(queue.lease(0, LEASE, PATIENCE).unwrap().is_empty() && started.elapsed() < SOON);
    complete(queue, &one(queue));
}
