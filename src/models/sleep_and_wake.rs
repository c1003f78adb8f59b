//! The queue's workers and the line of submitters: no wake-up is lost, whoever pushes, pops, closes or falls asleep
//! meanwhile. A lost one leaves its thread parked for ever, which the model checker reports.
//!
//! Workers that take a job are busy for good here, so another one must be woken for the next.

use loom::thread::spawn;

use super::{Rig, explore, explore_from};
use crate::Job;
use crate::priority::{Level, Priority};
use crate::queue::{Parker, Phase, Queue};
use crate::sync::Arc;

fn take(queue: &Queue<u32>) -> Option<u32> {
    queue.pop(&Parker::of_this_thread()).map(|(item, _)| item)
}

/// Rules 1 and 3.
#[test]
fn one_worker_and_a_push() {
    explore(5, || {
        let queue = Arc::new(Queue::new(1, 1, 0));
        let pusher = Arc::clone(&queue);
        let worker = spawn(move || assert_eq!(take(&queue), Some(7)));
        assert!(pusher.try_push(7).is_ok());
        worker.join().unwrap();
    });
}

/// Rule 2: the second push may have relied on the worker that searched for the first.
#[test]
fn two_workers_and_two_pushes() {
    explore_from(3, || {
        let queue = Arc::new(Queue::new(2, 2, 0));
        let worker = |queue: &Arc<Queue<u32>>| {
            let queue = Arc::clone(queue);
            spawn(move || take(&queue).unwrap())
        };
        // From where one of them sleeps and the other begins.
        let first = worker(&queue);
        loom::thread::yield_now();
        let second = worker(&queue);
        loom::explore();
        assert!(queue.try_push(1).is_ok());
        assert!(queue.try_push(2).is_ok());
        assert_eq!(first.join().unwrap() + second.join().unwrap(), 3);
    });
}

#[test]
fn two_workers_and_two_pushers() {
    explore(1, || {
        let queue = Arc::new(Queue::new(2, 2, 0));
        let workers = [(); 2].map(|()| {
            let queue = Arc::clone(&queue);
            spawn(move || take(&queue).unwrap())
        });
        let pusher = {
            let queue = Arc::clone(&queue);
            spawn(move || assert!(queue.try_push(1).is_ok()))
        };
        assert!(queue.try_push(2).is_ok());
        pusher.join().unwrap();
        let got = workers.map(|worker| worker.join().unwrap());
        assert_eq!(got.iter().sum::<u32>(), 3);
    });
}

/// One worker that comes back takes what two threads push.
#[test]
fn one_worker_and_two_pushers() {
    explore(2, || {
        let queue = Arc::new(Queue::new(2, 1, 0));
        let worker = {
            let queue = Arc::clone(&queue);
            spawn(move || {
                let me = Parker::of_this_thread();
                let next = || queue.pop(&me).unwrap().0;
                next() + next()
            })
        };
        let pusher = {
            let queue = Arc::clone(&queue);
            spawn(move || assert!(queue.try_push(1).is_ok()))
        };
        assert!(queue.try_push(2).is_ok());
        pusher.join().unwrap();
        assert_eq!(worker.join().unwrap(), 3);
    });
}

#[test]
fn drained_with_a_push_before() {
    explore(3, || {
        let queue = Arc::new(Queue::new(1, 1, 0));
        let worker = {
            let queue = Arc::clone(&queue);
            spawn(move || {
                let me = Parker::of_this_thread();
                let mut got = 0;
                while queue.pop(&me).is_some() {
                    got += 1;
                }
                got
            })
        };
        assert!(queue.try_push(7).is_ok());
        queue.close(Phase::Draining);
        assert_eq!(worker.join().unwrap(), 1, "what is in is served");
    });
}

#[test]
fn two_workers_and_a_close() {
    explore(2, || {
        let queue = Arc::new(Queue::<u32>::new(1, 2, 0));
        let workers = [(); 2].map(|()| {
            let queue = Arc::clone(&queue);
            spawn(move || assert_eq!(take(&queue), None))
        });
        queue.close(Phase::Stopped);
        let _ = workers.map(|worker| worker.join().unwrap());
    });
}

/// The first job of a priority makes its level, and wakes a worker as any other does.
#[test]
fn one_worker_and_a_push_of_low_priority() {
    explore(4, || {
        let queue = Arc::new(Queue::new(1, 1, 0));
        let pusher = Arc::clone(&queue);
        let worker = spawn(move || assert_eq!(take(&queue), Some(7)));
        assert!(pusher.try_push_at(Level::Low, 7).is_ok());
        worker.join().unwrap();
    });
}

#[test]
fn one_worker_and_pushes_at_two_levels() {
    explore(2, || {
        let queue = Arc::new(Queue::new(1, 1, 0));
        let worker = {
            let queue = Arc::clone(&queue);
            spawn(move || {
                let me = Parker::of_this_thread();
                let next = || queue.pop(&me).unwrap().0;
                next() + next()
            })
        };
        assert!(queue.try_push(1).is_ok());
        assert!(queue.try_push_at(Level::High, 2).is_ok());
        assert_eq!(worker.join().unwrap(), 3);
    });
}

fn job() -> Job {
    Job::new("job", |_| Ok(Vec::new()))
}

/// Pops this many, without ever waiting in the queue.
fn pop(rig: &Rig, mut count: usize) {
    while count > 0 {
        match rig.engine.queue.try_pop() {
            Some(_) => count -= 1,
            None => loom::thread::yield_now(),
        }
    }
}

/// A pop makes room for a submitter that lines up.
#[test]
fn one_submitter_and_a_pop() {
    explore(5, || {
        let rig = Rig::new(1, 1);
        let _first = rig.accepted(job());
        let submitter = {
            let rig = rig.clone();
            spawn(move || rig.submit(job()).is_ok())
        };
        pop(&rig, 1);
        assert!(submitter.join().unwrap());
    });
}

/// Rule 5: who was called calls the next.
#[test]
fn two_submitters_and_two_pops() {
    explore_from(2, || {
        let rig = Rig::new(1, 2);
        let _kept = [rig.accepted(job()), rig.accepted(job())];
        let submitters = [(); 2].map(|()| {
            let rig = rig.clone();
            spawn(move || rig.submit(job()).is_ok())
        });
        // From where both are in the line.
        (0..20).for_each(|_| loom::thread::yield_now());
        loom::explore();
        pop(&rig, 2);
        let _ = submitters.map(|submitter| assert!(submitter.join().unwrap()));
    });
}

/// Rule 4: a single place is not a good part of this queue, but whoever has waited for a moment gets it.
#[test]
fn an_urgent_submitter_and_a_single_pop() {
    explore(4, || {
        let rig = Rig::new(1, 8);
        let _kept = [(); 8].map(|()| rig.accepted(job()));
        let submitter = {
            let rig = rig.clone();
            spawn(move || rig.submit(job()).is_ok())
        };
        pop(&rig, 1);
        assert!(submitter.join().unwrap());
    });
}

#[test]
fn two_submitters_and_a_close() {
    explore(2, || {
        let rig = Rig::new(1, 1);
        let _first = rig.accepted(job());
        let submitters = [(); 2].map(|()| {
            let rig = rig.clone();
            spawn(move || rig.submit(job()).is_err())
        });
        rig.close();
        let _ = submitters.map(|submitter| assert!(submitter.join().unwrap()));
    });
}

/// Without a queue, a submitter waits for a worker to be free.
#[test]
fn hand_off() {
    explore(1, || {
        let rig = Rig::new(1, 0);
        let worker = rig.worker(0);
        let submitter = {
            let rig = rig.clone();
            spawn(move || rig.accepted(job()).wait())
        };
        let mine = rig.accepted(job());
        mine.wait();
        submitter.join().unwrap();
        rig.close();
        worker.join().unwrap();
        rig.check_accounts(2);
    });
}

/// The line of a level is called by the pops of that level.
#[test]
fn one_submitter_of_high_priority_and_a_pop() {
    explore(3, || {
        let rig = Rig::new(1, 1);
        let _first = rig.accepted(job().with_priority(Priority::High));
        let submitter = {
            let rig = rig.clone();
            spawn(move || rig.submit(job().with_priority(Priority::High)).is_ok())
        };
        pop(&rig, 1);
        assert!(submitter.join().unwrap());
    });
}
