//! A delegator that serves a queue of orders.
#![cfg(feature = "orders")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Counter, Gate, PATIENCE, eventually, watchdog};
use workpath::{
    Catalog, Delegator, Error, JobState, MemoryQueue, Order, OrderQueue, Origin, Priority, QueueErrorKind,
    Renewal, Serve, Serving, Settlement, Shutdown, Verdict,
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
