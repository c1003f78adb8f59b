//! A delegator that serves a queue of orders.
#![cfg(feature = "orders")]

mod common;

use std::fmt;
use std::sync::{Arc, Barrier, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use common::{Counter, FOREVER, Gate, PATIENCE, eventually, watchdog};
use workpath::{
    Catalog, DeadLetter, Delegator, Error, Job, JobId, JobState, Lease, LeaseToken, MemoryQueue, Order,
    OrderQueue, OrderResult, Origin, Overflow, Priority, QueueCounts, QueueError, QueueErrorKind, Renewal,
    Serve, Serving, Settlement, Shutdown, Verdict,
};

const LEASE: Duration = Duration::from_secs(30);

fn delegator(workers: usize) -> Delegator {
    Delegator::builder().workers(workers).build().unwrap()
}

/// Failures are tried again at once.
fn hasty() -> Serve {
    Serve::options().backoff(Duration::ZERO, Duration::ZERO)
}

#[test]
fn what_is_enqueued_is_done_and_its_result_kept() {
    watchdog(|| {
        let queue = MemoryQueue::new();
        let catalog = Catalog::new().with("add", |ctx, order| {
            let to = ctx.value::<Vec<u8>>("to").ok_or("nothing to add to")?;
            Ok(vec![to[0] + order.payload()[0]])
        });
        let delegator = delegator(2);
        let serving = delegator.serve(&queue, &catalog, Serve::options()).unwrap();
        let orders = (0..200).map(|n| Order::new("add").with_value("to", [1]).with_payload([n])).collect();
        let ids: Vec<_> = queue.enqueue_all(orders).into_iter().map(Result::unwrap).collect();
        for (n, id) in ids.into_iter().enumerate() {
            assert_eq!(queue.result(id, PATIENCE).unwrap(), Some(Ok(vec![n as u8 + 1])));
        }
        let report = serving.stop(Shutdown::drain());
        assert!(report.stuck.is_empty());
        let counts = queue.counts().unwrap();
        assert_eq!((counts.waiting, counts.leased, counts.dead), (0, 0, 0));
    });
}

#[test]
fn an_order_run_locally_is_the_job_that_it_describes() {
    let catalog = Catalog::new()
        .with("ok", |_, order| Ok(order.payload().to_vec()))
        .with("late", |ctx, _| ctx.sleep(PATIENCE).map(|()| Vec::new()))
        .with("broken", |_, _| panic!("on purpose"));
    let delegator = delegator(1);
    let run = |order: &Order| delegator.submit(catalog.job(order).unwrap()).unwrap().wait();
    let order = Order::new("ok").with_payload("x");
    assert_eq!((run(&order).id(), run(&order).payload()), (order.id(), Some(&b"x"[..])));
    let late = Order::new("late").with_timeout(Duration::from_millis(20));
    assert_eq!(run(&late).state(), JobState::TimedOut);
    assert_eq!(run(&Order::new("broken")).state(), JobState::Panicked);
    assert_eq!(catalog.job(&Order::new("no")).unwrap_err().kind(), QueueErrorKind::UnknownOperation);
}

#[test]
fn a_failing_order_is_tried_as_often_as_it_says_and_then_dead() {
    watchdog(|| {
        let (queue, runs) = (MemoryQueue::new(), Counter::new());
        let counted = runs.clone();
        let catalog = Catalog::new().with("fail", move |_, _| Err(format!("run {}", counted.add()).into()));
        let delegator = delegator(1);
        let _serving = delegator.serve(&queue, &catalog, hasty()).unwrap();
        let id = queue.enqueue(Order::new("fail").with_attempts(3)).unwrap();
        assert_eq!(queue.result(id, PATIENCE).unwrap(), Some(Err("run 3".into())));
        let letter = queue.dead_letters(9).unwrap().remove(0);
        assert_eq!((letter.id, &*letter.reason, letter.failures, runs.get()), (id, "run 3", 3, 3));
        assert!(queue.requeue(id).unwrap());
        runs.wait_for(6);
    });
}

#[test]
fn an_error_may_say_that_there_is_no_use_or_when_to_try_again() {
    watchdog(|| {
        let (queue, runs) = (MemoryQueue::new(), Counter::new());
        let counted = runs.clone();
        let catalog = Catalog::new().with("permanent", |_, _| Err(Error::permanent("no such user"))).with(
            "later",
            move |_, _| {
                counted.add();
                Err(Error::retry_after(common::FOREVER))
            },
        );
        let delegator = delegator(1);
        let _serving = delegator.serve(&queue, &catalog, hasty()).unwrap();
        let id = queue.enqueue(Order::new("permanent").with_attempts(9)).unwrap();
        assert_eq!(queue.result(id, PATIENCE).unwrap(), Some(Err("no such user".into())));
        assert_eq!(queue.dead_letters(9).unwrap().remove(0).failures, 1);
        queue.enqueue(Order::new("later").with_attempts(9)).unwrap();
        eventually("it is delayed", || queue.counts().unwrap().delayed == 1);
        assert_eq!((runs.get(), queue.counts().unwrap().delayed), (1, 1));
    });
}

#[test]
fn a_panic_is_a_failure_and_an_unknown_operation_is_dead_at_once() {
    watchdog(|| {
        let queue = MemoryQueue::new();
        let catalog = Catalog::new().with("panic", |_, _| panic!("on purpose"));
        let delegator = delegator(1);
        let _serving = delegator.serve(&queue, &catalog, hasty()).unwrap();
        let broken = queue.enqueue(Order::new("panic").with_attempts(1)).unwrap();
        let unknown = queue.enqueue(Order::new("nobody knows")).unwrap();
        assert_eq!(queue.result(broken, PATIENCE).unwrap(), Some(Err("panicked: on purpose".into())));
        let unknown = queue.result(unknown, PATIENCE).unwrap();
        assert_eq!(unknown, Some(Err("unknown operation \"nobody knows\"".into())));
        assert_eq!(queue.counts().unwrap().dead, 2);
    });
}

#[test]
fn no_more_is_fetched_than_there_are_free_workers() {
    watchdog(|| {
        let (queue, gate, started) = (MemoryQueue::new(), Gate::new(), Counter::new());
        let (release, count) = (gate.clone(), started.clone());
        let catalog = Catalog::new().with("wait", move |_, _| {
            count.add();
            release.wait();
            Ok(Vec::new())
        });
        let delegator = delegator(2);
        let serving = delegator.serve(&queue, &catalog, Serve::options()).unwrap();
        queue.enqueue_all((0..10).map(|_| Order::new("wait")).collect());
        started.wait_for(2);
        assert_eq!((queue.counts().unwrap().leased, queue.counts().unwrap().waiting), (2, 8));
        gate.open();
        started.wait_for(10);
        serving.stop(Shutdown::drain());
        assert_eq!(queue.counts().unwrap().leased, 0);
    });
}

#[test]
fn long_orders_outlive_their_leases() {
    watchdog(|| {
        let (queue, runs) = (MemoryQueue::new(), Counter::new());
        let counted = runs.clone();
        let catalog = Catalog::new().with("long", move |ctx, _| {
            counted.add();
            ctx.sleep(Duration::from_millis(600)).map(|()| vec![1])
        });
        let delegator = delegator(2);
        let options = Serve::options().lease(Duration::from_millis(200));
        let _serving = delegator.serve(&queue, &catalog, options).unwrap();
        let id = queue.enqueue(Order::new("long")).unwrap();
        assert_eq!(queue.result(id, PATIENCE).unwrap(), Some(Ok(vec![1])));
        assert_eq!(runs.get(), 1);
    });
}

#[test]
fn a_cancel_reaches_what_waits_and_what_runs() {
    watchdog(|| {
        let (queue, started) = (MemoryQueue::new(), Gate::new());
        let open = started.clone();
        let catalog = Catalog::new().with("long", move |ctx, _| {
            open.open();
            ctx.sleep(PATIENCE).map(|()| Vec::new())
        });
        let delegator = delegator(1);
        let options = Serve::options().lease(Duration::from_millis(90));
        let _serving = delegator.serve(&queue, &catalog, options).unwrap();
        let running = queue.enqueue(Order::new("long")).unwrap();
        started.wait();
        let waiting = queue.enqueue(Order::new("long")).unwrap();
        for id in [waiting, running] {
            assert!(queue.cancel(id).unwrap());
            assert_eq!(queue.result(id, PATIENCE).unwrap(), Some(Err("cancelled".into())));
            assert!(!queue.cancel(id).unwrap());
        }
        assert_eq!(queue.counts().unwrap().dead, 0);
    });
}

#[test]
fn a_stop_hands_back_what_has_not_started() {
    watchdog(|| {
        let (queue, gate, started) = (MemoryQueue::new(), Gate::new(), Gate::new());
        let (release, open) = (gate.clone(), started.clone());
        let catalog = Catalog::new().with("wait", move |_, _| {
            open.open();
            release.wait();
            Ok(Vec::new())
        });
        let delegator = delegator(1);
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
        let again = queue.lease(9, LEASE, Duration::ZERO).unwrap();
        assert!(again.iter().all(|lease| lease.deliveries == 1), "{again:?}");
    });
}

#[test]
fn a_stop_reports_what_does_not_return() {
    watchdog(|| {
        let (queue, gate, started) = (MemoryQueue::new(), Gate::new(), Gate::new());
        let (release, open) = (gate.clone(), started.clone());
        let catalog = Catalog::new().with("deaf", move |_, _| {
            open.open();
            release.wait();
            Ok(Vec::new())
        });
        let delegator = delegator(1);
        let serving = delegator.serve(&queue, &catalog, Serve::options()).unwrap();
        let id = queue.enqueue(Order::new("deaf")).unwrap();
        started.wait();
        let report = serving.stop(Shutdown::cancel().within(Duration::from_millis(20)));
        gate.open();
        assert_eq!(report.stuck.iter().map(|worker| worker.running).collect::<Vec<_>>(), [Some(id)]);
    });
}

#[test]
fn a_delegator_that_is_shut_down_hands_its_orders_back() {
    watchdog(|| {
        let (queue, started) = (MemoryQueue::new(), Counter::new());
        let count = started.clone();
        let catalog = Catalog::new().with("long", move |ctx, _| {
            count.add();
            ctx.sleep(PATIENCE).map(|()| Vec::new())
        });
        let delegator = delegator(2);
        let serving = delegator.serve(&queue, &catalog, Serve::options().prefetch(2)).unwrap();
        queue.enqueue_all((0..4).map(|_| Order::new("long")).collect());
        started.wait_for(2);
        eventually("all are fetched", || queue.counts().unwrap().leased == 4);
        // The jobs that were not started are kept meanwhile.
        let kept = delegator.shutdown(Shutdown::cancel());
        serving.stop(Shutdown::drain());
        assert_eq!((queue.counts().unwrap().waiting, queue.counts().unwrap().leased), (4, 0));
        drop(kept);
        assert_eq!(queue.counts().unwrap().waiting, 4);
    });
}

#[test]
fn poison_is_dead_before_it_is_run_again() {
    watchdog(|| {
        let (queue, runs) = (MemoryQueue::new(), Counter::new());
        let id = queue.enqueue(Order::new("poison")).unwrap();
        for delivery in 1..=3 {
            let lease = queue.lease(1, Duration::from_millis(1), PATIENCE).unwrap().remove(0);
            assert_eq!((lease.order.id(), lease.deliveries, lease.failures), (id, delivery, 0));
        }
        let counted = runs.clone();
        let catalog = Catalog::new().with("poison", move |_, _| Ok(vec![counted.add() as u8]));
        let delegator = delegator(1);
        let _serving = delegator.serve(&queue, &catalog, Serve::options()).unwrap();
        let result = queue.result(id, PATIENCE).unwrap().unwrap();
        assert_eq!((result, runs.get()), (Err("poison: handed out 3 times without an outcome".into()), 0));
    });
}

#[test]
fn a_lost_lease_neither_renews_nor_settles() {
    let queue = MemoryQueue::new();
    let id = queue.enqueue(Order::new("work")).unwrap();
    let lost = queue.lease(1, Duration::from_millis(1), Duration::ZERO).unwrap().remove(0);
    let held = queue.lease(1, LEASE, PATIENCE).unwrap().remove(0);
    assert_eq!(queue.renew(&[lost.token, held.token], LEASE).unwrap(), [Renewal::Lost, Renewal::Held]);
    let settle =
        |lease, text: &str| queue.settle(vec![Settlement::new(lease, Verdict::Complete(text.into()))]);
    assert_eq!(settle(&lost, "lost").unwrap(), [false]);
    assert_eq!(settle(&held, "held").unwrap(), [true]);
    assert_eq!(settle(&held, "twice").unwrap(), [false]);
    assert_eq!(queue.result(id, Duration::ZERO).unwrap(), Some(Ok(b"held".to_vec())));
}

#[test]
fn an_order_past_its_deadline_is_not_run() {
    watchdog(|| {
        let (queue, runs) = (MemoryQueue::new(), Counter::new());
        let counted = runs.clone();
        let catalog = Catalog::new().with("work", move |_, _| Ok(vec![counted.add() as u8]));
        let id = queue.enqueue(Order::new("work").with_timeout(Duration::ZERO)).unwrap();
        let delegator = delegator(1);
        let _serving = delegator.serve(&queue, &catalog, Serve::options()).unwrap();
        let result = queue.result(id, PATIENCE).unwrap();
        assert_eq!((result, runs.get()), (Some(Err("deadline exceeded".into())), 0));
    });
}

#[test]
fn a_manual_delegator_refuses_to_serve_and_runs_the_jobs_of_orders() {
    let catalog = Catalog::new().with("work", |_, _| Ok(vec![7]));
    let delegator = Delegator::manual();
    let error = delegator.serve(&MemoryQueue::new(), &catalog, Serve::options()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
    let job = catalog.job(&Order::new("work")).unwrap();
    assert_eq!(delegator.submit(job).unwrap().join().unwrap(), [7]);
}

#[test]
fn a_cancelled_order_and_a_stopped_one_say_by_whom() {
    watchdog(|| {
        let queue = MemoryQueue::new();
        let catalog = Catalog::new().with("sleep", |ctx, _| ctx.sleep(PATIENCE).map(|()| Vec::new()));
        let delegator = delegator(1);
        let options = Serve::options().lease(Duration::from_millis(60));
        let serving = delegator.serve(&queue, &catalog, options).unwrap();
        let why = || {
            let records = delegator.registry().records();
            records.last().and_then(|record| record.error()?.why()).expect("a context ended it")
        };
        let runs = || eventually("it runs", || delegator.stats().running == 1);

        let id = queue.enqueue(Order::new("sleep")).unwrap();
        runs();
        queue.cancel(id).unwrap();
        eventually("it is cancelled", || delegator.stats().cancelled == 1);
        assert_eq!((why().origin(), why().location()), (Origin::OrderQueue, None));

        queue.enqueue(Order::new("sleep")).unwrap();
        runs();
        let line = line!() + 1;
        serving.stop(Shutdown::cancel());
        eventually("it is stopped", || delegator.stats().cancelled == 2);
        let place = why().location().map(|location| (location.file(), location.line()));
        assert_eq!((why().origin(), place), (Origin::Shutdown, Some((file!(), line))));
    });
}

#[test]
fn a_stop_from_inside_an_order_does_not_wait_for_itself() {
    watchdog(|| {
        let (queue, serving) = (MemoryQueue::new(), Arc::new(Mutex::new(None::<Serving>)));
        let own = Arc::clone(&serving);
        let ready = Gate::new();
        let wait = ready.clone();
        let catalog = Catalog::new()
            .with("stop", move |_, _| {
                wait.wait();
                let serving = own.lock().unwrap().take().ok_or("nothing to stop")?;
                let report = serving.stop(Shutdown::drain());
                Ok(vec![report.completed as u8, report.stuck.len() as u8])
            })
            .with("other", |_, _| Ok(Vec::new()));
        let delegator = delegator(1);
        *serving.lock().unwrap() =
            Some(delegator.serve(&queue, &catalog, Serve::options().prefetch(3)).unwrap());
        let id = queue.enqueue(Order::new("stop").with_priority(Priority::High)).unwrap();
        queue.enqueue(Order::new("other")).unwrap();
        eventually("both are fetched", || queue.counts().unwrap().leased == 2);
        ready.open();
        assert_eq!(queue.result(id, PATIENCE).unwrap(), Some(Ok(vec![0, 1])));
        eventually("the other is handed back", || {
            let counts = queue.counts().unwrap();
            (counts.waiting, counts.leased) == (1, 0)
        });
    });
}

#[test]
fn an_operation_that_hangs_past_the_timeout_loses_its_order() {
    watchdog(|| {
        let (queue, gate, runs) = (MemoryQueue::new(), Gate::new(), Counter::new());
        let (release, counted) = (gate.clone(), runs.clone());
        let catalog = Catalog::new().with("hang", move |_, _| {
            let run = counted.add() as u8;
            if run == 1 {
                release.wait();
            }
            Ok(vec![run])
        });
        let delegator = delegator(2);
        let options = Serve::options().timeout(Duration::from_millis(30)).lease(Duration::from_millis(60));
        let _serving = delegator.serve(&queue, &catalog, options).unwrap();
        let id = queue.enqueue(Order::new("hang")).unwrap();
        let result = queue.result(id, PATIENCE).unwrap();
        gate.open();
        // The first to hang may have been taken for lost once more before the second came.
        assert!(matches!(result, Some(Ok(ref run)) if run[0] > 1), "{result:?}");
    });
}

#[test]
fn an_attempt_that_is_out_of_time_has_failed() {
    watchdog(|| {
        let queue = MemoryQueue::new();
        let catalog = Catalog::new().with("slow", |ctx, _| ctx.sleep(PATIENCE).map(|()| Vec::new()));
        let delegator = delegator(1);
        let options = hasty().timeout(Duration::from_millis(20));
        let _serving = delegator.serve(&queue, &catalog, options).unwrap();
        let id = queue.enqueue(Order::new("slow").with_attempts(2)).unwrap();
        let error = queue.result(id, PATIENCE).unwrap().unwrap().unwrap_err();
        let letter = queue.dead_letters(1).unwrap().remove(0);
        assert_eq!((letter.failures, &*letter.reason), (2, &*error));
    });
}

#[test]
fn the_id_of_a_dead_letter_is_taken() {
    let queue = MemoryQueue::new();
    let order = Order::new("work");
    queue.enqueue(order.clone()).unwrap();
    let lease = queue.lease(1, LEASE, Duration::ZERO).unwrap().remove(0);
    queue.settle(vec![Settlement::new(&lease, Verdict::Dead("enough".into()))]).unwrap();
    assert_eq!(queue.enqueue(order.clone()).unwrap_err().duplicate_of(), Some(order.id()));
    assert!(queue.requeue(order.id()).unwrap());
    assert_eq!(queue.enqueue(order.clone()).unwrap_err().kind(), QueueErrorKind::Duplicate);
}

type Hook<A, B> = Arc<dyn Fn(A) -> Result<B, QueueError> + Send + Sync>;

/// A queue that hands out what a test gives it, in whatever state, and keeps what it is told. Its orders come from nowhere,
/// and its waits end when there is an order or somebody wakes it, and not before.
#[derive(Clone)]
struct Desk {
    state: Arc<(Mutex<OnDesk>, Condvar)>,
    /// What is done before it waits for orders, by the number of the call.
    on_lease: Hook<usize, ()>,
    /// What the renewal of this lease comes to.
    on_renew: Hook<LeaseToken, Renewal>,
    /// Whether what is settled counts, by the number of the call.
    on_settle: Hook<usize, bool>,
}

#[derive(Default)]
struct OnDesk {
    leases: Vec<Lease>,
    asked: Vec<usize>,
    wakes: usize,
    renewed: Vec<Vec<LeaseToken>>,
    settles: usize,
    settled: Vec<Settlement>,
}

impl Desk {
    fn new() -> Desk {
        Desk {
            state: Arc::default(),
            on_lease: Arc::new(|_| Ok(())),
            on_renew: Arc::new(|_| Ok(Renewal::Held)),
            on_settle: Arc::new(|_| Ok(true)),
        }
    }

    fn look(&self) -> MutexGuard<'_, OnDesk> {
        self.state.0.lock().unwrap()
    }

    /// Has an order handed out, for the `deliveries`th time since it failed for the `failures`th.
    fn put(&self, order: Order, deliveries: u32, failures: u32) -> JobId {
        let id = order.id();
        self.put_all(vec![(order, deliveries, failures)]);
        id
    }

    fn put_all(&self, orders: Vec<(Order, u32, u32)>) {
        self.look().leases.extend(orders.into_iter().map(|(order, deliveries, failures)| {
            let token = LeaseToken { id: order.id(), place: (0, 0), fence: deliveries.into() };
            Lease { order, token, failures, deliveries, cancelled: false }
        }));
        self.state.1.notify_all();
    }

    /// What came of this order, once.
    fn verdict(&self, id: JobId) -> Verdict {
        let verdicts = || {
            let is_it = |settlement: &&Settlement| settlement.token.id == id;
            self.look().settled.iter().filter(is_it).map(|one| one.verdict.clone()).collect::<Vec<_>>()
        };
        eventually("there is a verdict", || !verdicts().is_empty());
        assert_eq!(verdicts().len(), 1);
        verdicts().remove(0)
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Desk")
    }
}

fn unavailable() -> QueueError {
    QueueError::new(QueueErrorKind::Unavailable, "nobody is there")
}

impl OrderQueue for Desk {
    fn enqueue_all(&self, orders: Vec<Order>) -> Vec<Result<JobId, QueueError>> {
        orders.into_iter().map(|order| Ok(self.put(order, 1, 0))).collect()
    }

    fn lease(&self, max: usize, _: Duration, _: Duration) -> Result<Vec<Lease>, QueueError> {
        let nth = {
            let mut desk = self.look();
            desk.asked.push(max);
            desk.asked.len()
        };
        (self.on_lease)(nth)?;
        let mut desk = self.look();
        let wakes = desk.wakes;
        while desk.leases.is_empty() && desk.wakes == wakes && max > 0 {
            desk = self.state.1.wait(desk).unwrap();
        }
        let count = desk.leases.len().min(max);
        Ok(desk.leases.drain(..count).collect())
    }

    fn renew(&self, leases: &[LeaseToken], _: Duration) -> Result<Vec<Renewal>, QueueError> {
        self.look().renewed.push(leases.to_vec());
        leases.iter().map(|token| (self.on_renew)(*token)).collect()
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>, QueueError> {
        let nth = {
            let mut desk = self.look();
            desk.settles += 1;
            desk.settles
        };
        let counts = (self.on_settle)(nth)?;
        let answers = vec![counts; settlements.len()];
        self.look().settled.extend(settlements);
        Ok(answers)
    }

    fn result(&self, _: JobId, _: Duration) -> Result<Option<OrderResult>, QueueError> {
        Ok(None)
    }

    fn cancel(&self, _: JobId) -> Result<bool, QueueError> {
        Ok(false)
    }

    fn counts(&self) -> Result<QueueCounts, QueueError> {
        Ok(QueueCounts::default())
    }

    fn dead_letters(&self, _: usize) -> Result<Vec<DeadLetter>, QueueError> {
        Ok(Vec::new())
    }

    fn requeue(&self, _: JobId) -> Result<bool, QueueError> {
        Ok(false)
    }

    fn wake(&self) {
        self.look().wakes += 1;
        self.state.1.notify_all();
    }
}

/// Operations that a test needs again and again: `ok`, `fail`, and `wait`, which waits for the gate, or its context.
fn usual(gate: &Gate) -> Catalog {
    let gate = gate.clone();
    Catalog::new().with("ok", |_, _| Ok(vec![1])).with("fail", |_, _| Err("no".into())).with(
        "wait",
        move |ctx, _| {
            while !gate.wait_timeout(Duration::from_millis(1)) {
                ctx.check()?;
            }
            Ok(vec![2])
        },
    )
}

#[test]
fn a_failed_order_waits_twice_as_long_after_each_failure_up_to_the_limit() {
    watchdog(|| {
        let after = |options: Serve, failures: u32| {
            let (desk, delegator) = (Desk::new(), delegator(1));
            let _serving = delegator.serve(&desk, &usual(&Gate::new()), options).unwrap();
            let id = desk.put(Order::new("fail").with_attempts(u32::MAX), 1, failures);
            match desk.verdict(id) {
                Verdict::Retry { error, after } if error == "no" => after.as_secs(),
                other => panic!("{other:?}"),
            }
        };
        let own = || Serve::options().backoff(Duration::from_secs(2), Duration::from_secs(9));
        assert_eq!(
            [0, 1, 2, 3, 31, 32, u32::MAX - 2].map(|failures| after(own(), failures)),
            [2, 4, 8, 9, 9, 9, 9]
        );
        assert_eq!([0, 11, 12, 40].map(|failures| after(Serve::options(), failures)), [1, 2048, 3600, 3600]);
    });
}

#[test]
fn an_order_that_would_be_tried_again_too_late_is_dead_with_its_error() {
    watchdog(|| {
        let (desk, delegator) = (Desk::new(), delegator(1));
        let options = Serve::options().backoff(Duration::from_secs(100), Duration::from_secs(100));
        let _serving = delegator.serve(&desk, &usual(&Gate::new()), options).unwrap();
        let fails = |timeout: Duration| desk.put(Order::new("fail").with_timeout(timeout), 1, 0);
        let (too_late, early) = (fails(Duration::from_secs(50)), fails(Duration::from_secs(500)));
        assert_eq!(desk.verdict(too_late), Verdict::Dead("no".into()));
        assert!(matches!(desk.verdict(early), Verdict::Retry { .. }));
    });
}

#[test]
fn an_order_is_run_as_often_as_it_may_be_handed_out() {
    watchdog(|| {
        let verdict = |max, deliveries| {
            let (desk, delegator) = (Desk::new(), delegator(1));
            let options = Serve::options().max_deliveries(max);
            let _serving = delegator.serve(&desk, &usual(&Gate::new()), options).unwrap();
            desk.verdict(desk.put(Order::new("ok"), deliveries, 0))
        };
        let poison = |times| Verdict::Dead(format!("poison: handed out {times} times without an outcome"));
        for (max, least) in [(0, 1), (1, 1), (5, 5)] {
            assert_eq!(verdict(max, least), Verdict::Complete(vec![1]), "{max}");
            assert_eq!(verdict(max, least + 1), poison(least), "{max}");
        }
    });
}

#[test]
fn where_the_first_delivery_is_the_last_orders_run_side_by_side_all_the_same() {
    watchdog(|| {
        let (desk, delegator, both) = (Desk::new(), delegator(2), Arc::new(Barrier::new(2)));
        let catalog = Catalog::new().with("meet", move |_, _| {
            both.wait();
            Ok(Vec::new())
        });
        let _serving = delegator.serve(&desk, &catalog, Serve::options().max_deliveries(1)).unwrap();
        let orders = [Order::new("meet"), Order::new("meet")];
        let ids = orders.each_ref().map(Order::id);
        desk.put_all(orders.map(|order| (order, 1, 0)).into());
        for id in ids {
            assert_eq!(desk.verdict(id), Verdict::Complete(vec![]));
        }
    });
}

#[test]
fn an_order_on_its_last_chance_runs_alone() {
    watchdog(|| {
        let (desk, delegator, gate, inside) = (Desk::new(), delegator(3), Gate::new(), Counter::new());
        let alone = Arc::new(Mutex::new(0));
        let (release, count, others) = (gate.clone(), inside.clone(), Arc::clone(&alone));
        let catalog = Catalog::new()
            .with("first", move |_, _| {
                *others.lock().unwrap() += 1;
                count.add();
                release.wait();
                *others.lock().unwrap() -= 1;
                Ok(Vec::new())
            })
            .with("last", move |_, _| Ok(vec![*alone.lock().unwrap()]));
        let _serving = delegator.serve(&desk, &catalog, Serve::options().prefetch(6)).unwrap();
        let orders = [Order::new("first"), Order::new("first"), Order::new("last"), Order::new("last")];
        let ids = orders.each_ref().map(Order::id);
        desk.put_all(
            orders.into_iter().zip([1, 2, 3, 3]).map(|(order, deliveries)| (order, deliveries, 0)).collect(),
        );
        inside.wait_for(2);
        // What came along is not started while they run, though a worker is free.
        std::thread::sleep(common::BRIEF);
        gate.open();
        for id in &ids[2..] {
            assert_eq!(desk.verdict(*id), Verdict::Complete(vec![0]), "others ran beside it");
        }
    });
}

#[test]
fn a_result_that_is_not_kept_is_not_sent() {
    watchdog(|| {
        let (desk, delegator) = (Desk::new(), delegator(1));
        let _serving = delegator.serve(&desk, &usual(&Gate::new()), Serve::options()).unwrap();
        let id = desk.put(Order::new("ok").with_result_ttl(Duration::ZERO), 1, 0);
        assert_eq!(desk.verdict(id), Verdict::Complete(vec![]));
    });
}

#[test]
fn only_a_cancelled_context_of_its_own_ends_an_order_without_a_failure() {
    watchdog(|| {
        let (mut desk, started) = (Desk::new(), Gate::new());
        let (open, is_started) = (started.clone(), started);
        desk.on_renew =
            Arc::new(move |_| Ok(if is_started.is_open() { Renewal::Cancelled } else { Renewal::Held }));
        let opens = open.clone();
        let catalog = Catalog::new()
            .with("foreign", |ctx, _| {
                let (child, canceller) = ctx.with_cancel();
                canceller.cancel();
                child.check().map(|()| Vec::new())
            })
            .with("own", move |ctx, _| {
                open.open();
                let _ = ctx.sleep(PATIENCE);
                Err("something else".into())
            })
            .with("cancelled", move |ctx, _| {
                opens.open();
                ctx.sleep(PATIENCE).map(|()| Vec::new())
            });
        let delegator = delegator(1);
        let options = Serve::options().lease(Duration::from_millis(300));
        let _serving = delegator.serve(&desk, &catalog, options).unwrap();
        let verdict = |name: &'static str| desk.verdict(desk.put(Order::new(name), 1, 0));
        assert!(matches!(verdict("foreign"), Verdict::Retry { .. }));
        assert!(matches!(verdict("own"), Verdict::Retry { error, .. } if error == "something else"));
        assert_eq!(verdict("cancelled"), Verdict::Discard("cancelled".into()));
    });
}

#[test]
fn what_a_delegator_hands_back_unstarted_goes_back_to_the_queue() {
    watchdog(|| {
        let (queue, delegator, gate) = (MemoryQueue::new(), delegator(1), Gate::new());
        let _serving = delegator.serve(&queue, &usual(&gate), Serve::options().prefetch(3)).unwrap();
        queue.enqueue_all((0..4).map(|_| Order::new("wait")).collect());
        eventually("all are with the delegator", || {
            let stats = delegator.stats();
            (stats.running, stats.queued) == (1, 3)
        });
        let report = delegator.shutdown(Shutdown::cancel());
        assert!(!report.unstarted.is_empty());
        drop(report);
        eventually("all are back", || queue.counts().unwrap().waiting == 4);
    });
}

#[test]
fn a_stop_from_inside_the_order_of_another_serving_waits() {
    watchdog(|| {
        let (desk, gate, started) = (Desk::new(), Gate::new(), Gate::new());
        let delegators = [delegator(1), delegator(1)];
        let open = started.clone();
        let release = gate.clone();
        let catalog = Catalog::new().with("work", move |_, _| {
            open.open();
            release.wait();
            Ok(Vec::new())
        });
        let other = delegators[0].serve(&desk, &catalog, Serve::options()).unwrap();
        desk.put(Order::new("work"), 1, 0);
        started.wait();
        let other = Mutex::new(Some(other));
        let catalog = Catalog::new().with("stop", move |_, _| {
            let report = other.lock().unwrap().take().unwrap().stop(Shutdown::drain());
            Ok(vec![report.completed as u8, report.stuck.len() as u8])
        });
        let queue = MemoryQueue::new();
        let _serving = delegators[1].serve(&queue, &catalog, Serve::options()).unwrap();
        let id = queue.enqueue(Order::new("stop")).unwrap();
        eventually("it stops", || desk.look().wakes > 0);
        gate.open();
        assert_eq!(queue.result(id, PATIENCE).unwrap(), Some(Ok(vec![1, 0])));
    });
}

#[test]
fn a_stop_from_inside_cancels_the_others_only_if_it_says_so() {
    watchdog(|| {
        for how in [Shutdown::drain(), Shutdown::cancel()] {
            let (desk, gate, serving) = (Desk::new(), Gate::new(), Arc::new(Mutex::new(None::<Serving>)));
            let own = Arc::clone(&serving);
            let catalog = usual(&gate).with("stop", move |_, _| {
                let _ = own.lock().unwrap().take().unwrap().stop(how);
                Ok(Vec::new())
            });
            let delegator = delegator(2);
            *serving.lock().unwrap() = Some(delegator.serve(&desk, &catalog, Serve::options()).unwrap());
            let other = desk.put(Order::new("wait"), 1, 0);
            eventually("it runs", || delegator.stats().running == 1);
            let stop = desk.put(Order::new("stop"), 1, 0);
            assert_eq!(desk.verdict(stop), Verdict::Complete(vec![]));
            if how == Shutdown::cancel() {
                assert_eq!(desk.verdict(other), Verdict::Release);
            } else {
                gate.open();
                assert_eq!(desk.verdict(other), Verdict::Complete(vec![2]));
            }
        }
    });
}

#[test]
fn what_is_cancelled_or_lost_while_it_waits_for_a_place_is_told_when_it_has_one() {
    watchdog(|| {
        for (renewal, verdict) in
            [(Renewal::Cancelled, Some(Verdict::Discard("cancelled".into()))), (Renewal::Lost, None)]
        {
            let (mut desk, gate) = (Desk::new(), Gate::new());
            desk.on_renew = Arc::new(move |_| Ok(renewal));
            let delegator = Delegator::builder().workers(1).queue_capacity(1).build().unwrap();
            let others = [(); 2].map(|()| {
                let release = gate.clone();
                let job = Job::new("other", move |_| {
                    release.wait();
                    Ok(Vec::new())
                });
                let other = delegator.submit(job).unwrap();
                eventually("it runs", || delegator.stats().running == 1);
                other
            });
            let options = Serve::options().lease(Duration::from_secs(1));
            let _serving = delegator.serve(&desk, &usual(&Gate::new()), options).unwrap();
            let id = desk.put(Order::new("wait"), 1, 0);
            eventually("it is renewed", || !desk.look().renewed.is_empty());
            gate.open();
            others.iter().for_each(|other| drop(other.wait()));
            eventually("it is cancelled", || delegator.stats().cancelled == 1);
            if let Some(verdict) = verdict {
                assert_eq!(desk.verdict(id), verdict);
            }
        }
    });
}

#[test]
fn workers_wait_while_too_much_is_to_be_settled() {
    watchdog(|| {
        let (mut desk, delegator, gate, runs) = (Desk::new(), delegator(1), Gate::new(), Counter::new());
        let release = gate.clone();
        desk.on_settle = Arc::new(move |nth| {
            if nth == 2 {
                release.wait();
            }
            Ok(true)
        });
        let counted = runs.clone();
        let catalog = usual(&Gate::new()).with("count", move |_, _| Ok(vec![counted.add() as u8]));
        let _serving = delegator.serve(&desk, &catalog, Serve::options().prefetch(999)).unwrap();
        desk.verdict(desk.put(Order::new("ok"), 1, 0));
        // The settler is busy with one, and a worker waits when two batches and one more are left.
        desk.put(Order::new("ok"), 1, 0);
        eventually("the settler is busy", || desk.look().settles == 2);
        desk.put_all((0..500).map(|_| (Order::new("count"), 1, 0)).collect());
        runs.wait_for(129);
        std::thread::sleep(common::BRIEF);
        assert_eq!(runs.get(), 129);
        gate.open();
        runs.wait_for(500);
        eventually("all are settled", || desk.look().settled.len() == 502);
    });
}

#[test]
fn a_queue_that_hangs_keeps_no_worker_after_the_stop() {
    watchdog(|| {
        let (mut desk, delegator, gate, runs) = (Desk::new(), delegator(1), Gate::new(), Counter::new());
        let release = gate.clone();
        desk.on_settle = Arc::new(move |_| {
            release.wait();
            Ok(true)
        });
        let counted = runs.clone();
        let catalog = Catalog::new().with("count", move |_, _| Ok(vec![counted.add() as u8]));
        let serving = delegator.serve(&desk, &catalog, Serve::options().prefetch(999)).unwrap();
        desk.put(Order::new("count"), 1, 0);
        eventually("the settler is busy", || desk.look().settles == 1);
        desk.put_all((0..200).map(|_| (Order::new("count"), 1, 0)).collect());
        runs.wait_for(130);
        let report = serving.stop(Shutdown::cancel().within(Duration::from_millis(20)));
        // It has returned, and waits for the settler only.
        assert_eq!(report.stuck.len(), 0);
        assert_eq!(delegator.submit(Job::new("other", |_| Ok(vec![7]))).unwrap().join().unwrap(), [7]);
        gate.open();
    });
}

#[test]
fn what_is_done_is_settled_while_others_run() {
    watchdog(|| {
        let (desk, delegator, gate) = (Desk::new(), delegator(2), Gate::new());
        let _serving = delegator.serve(&desk, &usual(&gate), Serve::options().lease(FOREVER)).unwrap();
        desk.put(Order::new("wait"), 1, 0);
        eventually("it runs", || delegator.stats().running == 1);
        assert_eq!(desk.verdict(desk.put(Order::new("ok"), 1, 0)), Verdict::Complete(vec![1]));
        gate.open();
    });
}

#[test]
fn an_order_whose_lease_has_ended_is_not_started_and_leaves_nothing() {
    watchdog(|| {
        let (mut desk, delegator, gate) = (Desk::new(), delegator(1), Gate::new());
        desk.on_renew = Arc::new(|_| Err(unavailable()));
        let release = gate.clone();
        let busy = delegator.submit(Job::new("busy", move |_| {
            release.wait();
            Ok(Vec::new())
        }));
        let options = Serve::options().lease(Duration::from_millis(30));
        let serving = delegator.serve(&desk, &usual(&gate), options).unwrap();
        let id = desk.put(Order::new("ok"), 1, 0);
        eventually("it is submitted", || delegator.stats().submitted == 2);
        std::thread::sleep(Duration::from_millis(40));
        gate.open();
        busy.unwrap().wait();
        eventually("it has failed", || delegator.stats().failed == 1);
        assert_eq!(serving.stop(Shutdown::drain()).total(), 0);
        assert!(desk.look().settled.iter().all(|settlement| settlement.token.id != id));
    });
}

#[test]
fn there_is_room_when_half_of_what_is_fetched_ahead_is_used_up() {
    watchdog(|| {
        let (desk, delegator, steps) = (Desk::new(), delegator(1), Arc::new((Mutex::new(0), Condvar::new())));
        let taken = Arc::clone(&steps);
        let catalog = Catalog::new().with("step", move |_, _| {
            let mut left = taken.1.wait_while(taken.0.lock().unwrap(), |left| *left == 0).unwrap();
            *left -= 1;
            Ok(Vec::new())
        });
        desk.put_all((0..7).map(|_| (Order::new("step"), 1, 0)).collect());
        let serving = delegator.serve(&desk, &catalog, Serve::options().prefetch(6)).unwrap();
        let step = |count: usize| {
            *steps.0.lock().unwrap() += 1;
            steps.1.notify_all();
            eventually("it is settled", || desk.look().settled.len() == count);
        };
        (1..=3).for_each(step);
        std::thread::sleep(common::BRIEF);
        assert_eq!(desk.look().asked, [7]);
        step(4);
        eventually("more is asked for", || desk.look().asked.len() == 2);
        assert_eq!(desk.look().asked, [7, 4]);
        *steps.0.lock().unwrap() = 9;
        steps.1.notify_all();
        assert_eq!(serving.stop(Shutdown::drain()).stuck.len(), 0);
    });
}

#[test]
fn an_order_that_comes_again_while_it_runs_here_goes_on_with_its_new_lease() {
    watchdog(|| {
        let (desk, delegator, gate) = (Desk::new(), delegator(2), Gate::new());
        let _serving = delegator.serve(&desk, &usual(&gate), Serve::options().prefetch(6)).unwrap();
        let order = Order::new("wait");
        desk.put(order.clone(), 1, 0);
        eventually("it runs", || delegator.stats().running == 1);
        desk.put(order.clone(), 2, 0);
        // One that was lost elsewhere, and one that was not.
        let others = [2, 1].map(|deliveries| desk.put(Order::new("ok"), deliveries, 0));
        for id in others {
            assert_eq!(desk.verdict(id), Verdict::Complete(vec![1]));
        }
        assert_eq!((delegator.stats().running, delegator.stats().submitted), (1, 3));
        gate.open();
        assert_eq!(desk.verdict(order.id()), Verdict::Complete(vec![2]));
        assert!(desk.look().settled.iter().any(|one| one.token.id == order.id() && one.token.fence == 2));
    });
}

#[test]
fn an_order_waits_for_a_place_among_other_jobs_until_the_stop() {
    watchdog(|| {
        let (desk, gate) = (Desk::new(), Gate::new());
        let delegator = Delegator::builder().workers(1).queue_capacity(1).build().unwrap();
        let fill = |gate: &Gate| {
            let job = || {
                let release = gate.clone();
                Job::new("other", move |_| {
                    release.wait();
                    Ok(Vec::new())
                })
            };
            let running = delegator.submit(job()).unwrap();
            eventually("it runs", || running.state() == JobState::Running);
            [running, delegator.submit(job()).unwrap()]
        };
        let serving = delegator.serve(&desk, &usual(&gate), Serve::options()).unwrap();
        let _others = fill(&gate);
        let id = desk.put(Order::new("ok"), 1, 0);
        // Longer than one attempt to get in.
        std::thread::sleep(Duration::from_millis(120));
        assert!(desk.look().settled.is_empty());
        gate.open();
        assert_eq!(desk.verdict(id), Verdict::Complete(vec![1]));

        let gate = Gate::new();
        let others = fill(&gate);
        let id = desk.put(Order::new("ok"), 1, 0);
        eventually("it is fetched", || desk.look().leases.is_empty());
        let report = serving.stop(Shutdown::drain());
        assert_eq!((report.handed_back, report.total()), (1, 1));
        assert_eq!(desk.verdict(id), Verdict::Release);
        gate.open();
        others.iter().for_each(|other| drop(other.wait()));
    });
}

#[test]
fn a_queue_that_fails_is_tried_again_after_a_pause_that_grows() {
    watchdog(|| {
        let (asks, settles) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let mut desk = Desk::new();
        let fails = |times: &Arc<Mutex<Vec<Instant>>>| {
            let times = Arc::clone(times);
            move |nth| {
                times.lock().unwrap().push(Instant::now());
                if nth < 4 { Err(unavailable()) } else { Ok(()) }
            }
        };
        desk.on_lease = Arc::new(fails(&asks));
        let settle = fails(&settles);
        desk.on_settle = Arc::new(move |nth| settle(nth).map(|()| true));
        // Renewals go on meanwhile, and are no reason to hurry.
        let options = Serve::options().lease(Duration::from_millis(150));
        let delegator = delegator(1);
        let serving = delegator.serve(&desk, &usual(&Gate::new()), options).unwrap();
        let id = desk.put(Order::new("ok"), 1, 0);
        assert_eq!(desk.verdict(id), Verdict::Complete(vec![1]));
        for times in [asks, settles] {
            let times = times.lock().unwrap();
            let pauses: Vec<_> =
                times.windows(2).take(3).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
            assert!(pauses[0] >= 50 && pauses[1] >= 100 && pauses[2] >= 200, "{pauses:?}");
        }
        assert!(!desk.look().renewed.is_empty());
        assert_eq!(serving.stop(Shutdown::drain()).total(), 0);
    });
}

#[test]
fn a_report_is_of_what_has_ended_since_the_stop_began() {
    watchdog(|| {
        let cancelled: Arc<Mutex<Vec<JobId>>> = Arc::default();
        let (mut desk, delegator, gate) = (Desk::new(), delegator(9), Gate::new());
        let known = Arc::clone(&cancelled);
        desk.on_renew = Arc::new(move |token| {
            Ok(if known.lock().unwrap().contains(&token.id) { Renewal::Cancelled } else { Renewal::Held })
        });
        let release = gate.clone();
        let catalog = usual(&gate).with("sleep", |ctx, _| ctx.sleep(PATIENCE).map(|()| Vec::new())).with(
            "fail",
            move |_, order| {
                order.payload().is_empty().then(|| release.wait());
                Err("no".into())
            },
        );
        // One that is stopped by its delegator, and one that is cancelled.
        let options = Serve::options().lease(Duration::from_millis(300));
        let serving = delegator.serve(&desk, &catalog, options).unwrap();
        let put = |name: &'static str, payload: &'static str| {
            desk.put(Order::new(name).with_payload(payload), 1, 0)
        };
        for id in [put("ok", ""), put("fail", "now")] {
            desk.verdict(id);
        }
        let id = put("sleep", "");
        cancelled.lock().unwrap().push(id);
        assert_eq!(desk.verdict(id), Verdict::Discard("cancelled".into()));
        let running = [
            put("wait", ""),
            put("wait", ""),
            put("fail", ""),
            put("fail", ""),
            put("fail", ""),
            put("sleep", ""),
        ];
        eventually("all run", || delegator.stats().running == 6);
        let stop = std::thread::spawn(move || serving.stop(Shutdown::drain()));
        eventually("it stops", || desk.look().wakes > 0);
        cancelled.lock().unwrap().push(running[5]);
        gate.open();
        let report = stop.join().unwrap();
        let counts = (report.completed, report.failed, report.cancelled, report.handed_back, report.total());
        assert_eq!(counts, (2, 3, 1, 0, 6));
    });
}

#[test]
fn an_order_that_another_job_displaces_goes_back_and_is_in_no_later_report() {
    watchdog(|| {
        let (desk, gate) = (Desk::new(), Gate::new());
        let delegator = Delegator::builder().workers(1).queue_capacity(1).build().unwrap();
        let release = gate.clone();
        let busy = delegator.submit(Job::new("busy", move |_| {
            release.wait();
            Ok(Vec::new())
        }));
        eventually("it runs", || delegator.stats().running == 1);
        let serving = delegator.serve(&desk, &usual(&gate), Serve::options()).unwrap();
        let id = desk.put(Order::new("ok"), 1, 0);
        eventually("it is queued", || delegator.stats().queued == 1);
        let other =
            delegator.submit_with(Job::new("other", |_| Ok(Vec::new())), Overflow::DropOldest).unwrap();
        assert_eq!(desk.verdict(id), Verdict::Release);
        gate.open();
        busy.unwrap().wait();
        other.wait();
        assert_eq!(serving.stop(Shutdown::drain()).total(), 0);
    });
}

#[test]
fn what_is_settled_in_vain_is_in_no_report() {
    watchdog(|| {
        let (mut desk, delegator, gate) = (Desk::new(), delegator(1), Gate::new());
        desk.on_settle = Arc::new(|_| Ok(false));
        let serving = delegator.serve(&desk, &usual(&gate), Serve::options()).unwrap();
        desk.put(Order::new("wait"), 1, 0);
        eventually("it runs", || delegator.stats().running == 1);
        let stop = std::thread::spawn(move || serving.stop(Shutdown::drain()));
        eventually("it stops", || desk.look().wakes > 0);
        gate.open();
        assert_eq!(stop.join().unwrap().total(), 0);
        assert_eq!(desk.look().settled.len(), 1);
    });
}

#[test]
fn a_lease_is_renewed_long_before_it_ends() {
    watchdog(|| {
        let (desk, delegator, gate) = (Desk::new(), delegator(1), Gate::new());
        let lease = Duration::from_secs(3);
        let serving = delegator.serve(&desk, &usual(&gate), Serve::options().lease(lease)).unwrap();
        let started = Instant::now();
        let id = desk.put(Order::new("wait"), 1, 0);
        eventually("it is renewed", || desk.look().renewed.iter().flatten().any(|token| token.id == id));
        assert!(started.elapsed() < lease, "{:?}", started.elapsed());
        gate.open();
        assert!(serving.stop(Shutdown::drain()).stuck.is_empty());
    });
}

#[test]
fn what_is_lost_or_too_late_is_not_renewed_any_more() {
    watchdog(|| {
        let lost: Arc<Mutex<Vec<JobId>>> = Arc::default();
        let (mut desk, delegator, gate) = (Desk::new(), delegator(3), Gate::new());
        let known = Arc::clone(&lost);
        desk.on_renew = Arc::new(move |token| {
            Ok(if known.lock().unwrap().contains(&token.id) { Renewal::Lost } else { Renewal::Held })
        });
        let release = gate.clone();
        let catalog = usual(&gate).with("deaf", move |_, _| {
            release.wait();
            Ok(Vec::new())
        });
        let options = Serve::options().lease(Duration::from_millis(150));
        let _serving = delegator.serve(&desk, &catalog, options).unwrap();
        let kept = desk.put(Order::new("wait"), 1, 0);
        desk.put(Order::new("deaf").with_timeout(Duration::from_millis(50)), 1, 0);
        let gone = desk.put(Order::new("deaf"), 1, 0);
        let last =
            || desk.look().renewed.last().map(|all| all.iter().map(|token| token.id).collect::<Vec<_>>());
        eventually("they are renewed", || {
            last().is_some_and(|last| last.contains(&kept) && last.contains(&gone))
        });
        lost.lock().unwrap().push(gone);
        eventually("one is kept", || last().is_some_and(|last| last == [kept]));
        let count = desk.look().renewed.len();
        eventually("there are more", || desk.look().renewed.len() > count + 3);
        assert!(desk.look().renewed[count..].iter().flatten().all(|token| token.id == kept));
        gate.open();
    });
}

#[test]
fn a_fetcher_that_overhears_the_stop_is_woken_again() {
    watchdog(|| {
        let (mut desk, delegator) = (Desk::new(), delegator(1));
        let state = Arc::clone(&desk.state);
        desk.on_lease = Arc::new(move |_| {
            // It has looked whether it is time to stop, and does not wait yet.
            let wakes = || state.0.lock().unwrap().wakes;
            eventually("the stop has called", || wakes() > 0);
            Ok(())
        });
        let serving = delegator.serve(&desk, &usual(&Gate::new()), Serve::options()).unwrap();
        eventually("it asks", || !desk.look().asked.is_empty());
        serving.stop(Shutdown::drain());
        assert!(desk.look().wakes > 1);
    });
}

#[test]
fn a_drain_that_reaches_its_limit_cancels_and_hands_back() {
    watchdog(|| {
        let (mut desk, delegator, gate) = (Desk::new(), delegator(2), Gate::new());
        desk.on_settle = Arc::new(|_| {
            std::thread::sleep(Duration::from_millis(5));
            Ok(true)
        });
        let release = gate.clone();
        let catalog = Catalog::new()
            .with("cooperate", |ctx, _| {
                let ended = ctx.sleep(PATIENCE);
                std::thread::sleep(Duration::from_millis(2));
                ended.map(|()| Vec::new())
            })
            .with("deaf", move |_, _| {
                release.wait();
                Ok(Vec::new())
            });
        let stop = |names: &[&'static str]| {
            let serving = delegator.serve(&desk, &catalog, Serve::options()).unwrap();
            desk.put_all(names.iter().map(|name| (Order::new(*name), 1, 0)).collect());
            eventually("they run", || delegator.stats().running == names.len());
            let report = serving.stop(Shutdown::drain().within(Duration::from_millis(30)));
            (report.handed_back, report.stuck.len())
        };
        assert_eq!(stop(&["cooperate"]), (1, 0));
        // What is done in time goes to the queue also when something else is stuck.
        assert_eq!(stop(&["cooperate", "deaf"]), (1, 1));
        gate.open();
    });
}

#[test]
fn a_drain_waits_for_a_slow_queue() {
    watchdog(|| {
        let (mut desk, delegator, gate) = (Desk::new(), delegator(1), Gate::new());
        desk.on_settle = Arc::new(|_| {
            // Longer than any grace.
            std::thread::sleep(Duration::from_millis(400));
            Ok(true)
        });
        let serving = delegator.serve(&desk, &usual(&gate), Serve::options()).unwrap();
        assert!(format!("{serving:?}").contains("busy: Some(0)"), "{serving:?}");
        desk.put(Order::new("wait"), 1, 0);
        eventually("it runs", || delegator.stats().running == 1);
        let stop = std::thread::spawn(move || serving.stop(Shutdown::drain()));
        eventually("it stops", || desk.look().wakes > 0);
        gate.open();
        assert_eq!(stop.join().unwrap().completed, 1);
    });
}

#[test]
fn a_drop_stops_the_serving_and_waits_for_what_runs() {
    watchdog(|| {
        let (desk, delegator, gate) = (Desk::new(), delegator(1), Gate::new());
        let serving = delegator.serve(&desk, &usual(&gate), Serve::options()).unwrap();
        let id = desk.put(Order::new("wait"), 1, 0);
        eventually("it runs", || delegator.stats().running == 1);
        let dropped = std::thread::spawn(move || drop(serving));
        eventually("it stops", || desk.look().wakes > 0);
        gate.open();
        dropped.join().unwrap();
        assert_eq!(desk.look().settled.iter().map(|one| one.token.id).collect::<Vec<_>>(), [id]);
    });
}
