//! Who runs the jobs, in which order and on which threads, and when the hooks run.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, ThreadId};

use common::{Counter, Gate, delegator, eventually, gated, occupy, watchdog, yields};
use pool::{Door, FORMS, assert_threads_gone, counts, own_name, pause, sized, threads_named};
use workpath::{
    Context, Delegator, Error, Job, JobHandle, JobState, Operation, Shutdown, SubmitError, Submitter,
};

/// A list that jobs and hooks write to.
type Notes<T> = Arc<Mutex<Vec<T>>>;

#[test]
fn a_job_runs_exactly_once() {
    watchdog(|| {
        let delegator = delegator(4);
        let runs = Arc::new(AtomicUsize::new(0));
        let job = Job::new("once", {
            let runs = Arc::clone(&runs);
            move |_| {
                runs.fetch_add(1, Ordering::SeqCst);
                Ok(Vec::new())
            }
        });
        let handle = delegator.submit(job).expect("room");
        for _ in 0..3 {
            handle.wait();
        }
        drop(delegator);
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn as_many_jobs_give_as_many_results() {
    watchdog(|| {
        let delegator = sized(3, 16);
        let handles: Vec<_> = (0..500_u32)
            .map(|n| delegator.submit(yields("numbered", n.to_le_bytes())).expect("room"))
            .collect();
        for (n, handle) in (0_u32..).zip(handles) {
            assert_eq!(handle.wait().payload(), Some(&n.to_le_bytes()[..]));
        }
    });
}

#[test]
fn one_worker_runs_jobs_in_the_order_of_submission() {
    watchdog(|| {
        let delegator = sized(1, 100);
        let busy = occupy(&delegator);
        let order: Notes<usize> = Notes::default();
        let handles: Vec<_> = (0..100)
            .map(|n| {
                let order = Arc::clone(&order);
                let job = Job::new("ordered", move |_| {
                    order.lock().unwrap().push(n);
                    Ok(Vec::new())
                });
                delegator.enter(FORMS[n % FORMS.len()], job).expect("room")
            })
            .collect();
        busy.release();
        for handle in handles {
            handle.wait();
        }
        assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn several_workers_start_jobs_in_the_order_of_submission() {
    watchdog(|| {
        let delegator = sized(2, 16);
        let (first, second) = (occupy(&delegator), occupy(&delegator));
        let (started, order) = (Counter::new(), Notes::<usize>::default());
        let gates: Vec<_> = (0..6).map(|_| Gate::new()).collect();
        let handles: Vec<_> = (0..6)
            .map(|n| {
                let (started, order, gate) = (started.clone(), Arc::clone(&order), gates[n].clone());
                let job = Job::new("ordered", move |_| {
                    order.lock().unwrap().push(n);
                    started.add();
                    gate.wait();
                    Ok(Vec::new())
                });
                delegator.submit(job).expect("room")
            })
            .collect();
        // One worker stays busy, so the other is the only one to take from the queue.
        first.release();
        for (n, gate) in gates.iter().enumerate() {
            started.wait_for(n + 1);
            assert_eq!(order.lock().unwrap().last(), Some(&n));
            gate.open();
        }
        second.release();
        assert!(handles.iter().all(|handle| handle.wait().state() == JobState::Completed));
    });
}

#[test]
fn as_many_jobs_run_at_once_as_there_are_workers_and_no_more() {
    watchdog(|| {
        for workers in [1, 2, 5] {
            let delegator = sized(workers, 64);
            let barrier = Arc::new(Barrier::new(workers));
            let running = Arc::new(AtomicUsize::new(0));
            let handles: Vec<_> = (0..workers * 6)
                .map(|_| {
                    let (barrier, running) = (Arc::clone(&barrier), Arc::clone(&running));
                    let job = Job::new("together", move |_| {
                        let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                        // Nobody passes before all workers are here.
                        barrier.wait();
                        running.fetch_sub(1, Ordering::SeqCst);
                        Ok(vec![now as u8])
                    });
                    delegator.submit(job).expect("room")
                })
                .collect();
            for handle in handles {
                let most = handle.wait().payload().expect("completed")[0];
                assert!(usize::from(most) <= workers, "{most} at once on {workers} workers");
            }
        }
    });
}

#[test]
fn the_threads_stay_the_same_however_many_jobs_wait_or_follow() {
    watchdog(|| {
        let name = own_name();
        let delegator =
            Delegator::builder().workers(2).queue_capacity(64).thread_name(name.as_str()).build().unwrap();
        let (first, second) = (occupy(&delegator), occupy(&delegator));
        let before = threads_named(&name);
        let seen: Arc<Mutex<HashSet<ThreadId>>> = Arc::default();
        let note = || {
            let seen = Arc::clone(&seen);
            Job::new("note", move |_| {
                seen.lock().unwrap().insert(thread::current().id());
                Ok(Vec::new())
            })
        };
        let waiting: Vec<_> = (0..30).map(|_| delegator.submit(note()).expect("room")).collect();
        assert_eq!(threads_named(&name), before, "a queue that fills must not start threads");
        assert_eq!(delegator.workers().len(), 2);
        first.release();
        second.release();
        waiting.iter().for_each(|handle| drop(handle.wait()));
        for _ in 0..100 {
            delegator.submit(note()).expect("room").wait();
        }
        assert!(seen.lock().unwrap().len() <= 2, "jobs ran on more than two threads");
        assert_eq!(threads_named(&name), before);
        drop(delegator);
        assert_threads_gone(&name);
    });
}

#[test]
fn threads_carry_the_name_that_was_given_and_their_index() {
    watchdog(|| {
        for (given, expected) in [(None, "workpath"), (Some("probe"), "probe"), (Some("größer"), "größer")]
        {
            let mut builder = Delegator::builder().workers(3).queue_capacity(8);
            if let Some(name) = given {
                builder = builder.thread_name(name);
            }
            let delegator = builder.build().unwrap();
            let barrier = Arc::new(Barrier::new(3));
            let handles: Vec<_> = (0..3)
                .map(|_| {
                    let barrier = Arc::clone(&barrier);
                    let job = Job::new("whoami", move |_| {
                        barrier.wait();
                        Ok(thread::current().name().unwrap_or("nameless").as_bytes().to_vec())
                    });
                    delegator.submit(job).expect("room")
                })
                .collect();
            let statuses = delegator.workers();
            for (index, status) in statuses.iter().enumerate() {
                assert_eq!((status.index, &*status.thread_name), (index, &*format!("{expected}-{index}")));
            }
            let mut indices = Vec::new();
            for handle in handles {
                let record = handle.wait();
                let worker = record.worker().expect("ran on a worker");
                assert_eq!(record.payload(), Some(format!("{expected}-{worker}").as_bytes()));
                indices.push(worker);
            }
            indices.sort_unstable();
            assert_eq!(indices, [0, 1, 2]);
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn the_delegator_has_a_thread_of_its_own() {
    watchdog(|| {
        let name = own_name();
        let delegator = Delegator::builder().workers(1).thread_name(name.as_str()).build().unwrap();
        let named = |end: &str| threads_named(&format!("{name}-{end}"));
        eventually("the threads have their names", || (named("d"), named("0")) == (Some(1), Some(1)));
        assert_eq!(named(""), Some(2));
        drop(delegator);
        assert_threads_gone(&name);
    });
}

#[test]
fn a_worker_says_what_it_runs() {
    watchdog(|| {
        let delegator = sized(2, 8);
        assert!(delegator.workers().iter().all(|worker| worker.running.is_none()));
        let busy = occupy(&delegator);
        let running: Vec<_> = delegator.workers().into_iter().filter_map(|worker| worker.running).collect();
        assert_eq!(running, [busy.handle.id()]);
        assert_eq!(delegator.stats().running, 1);
        busy.release();
        let worker = busy.handle.wait().worker().expect("ran on a worker");
        eventually("the worker is free", || delegator.workers()[worker].running.is_none());
    });
}

#[test]
fn a_job_finds_itself_running() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 8));
        let job = Job::new("mirror", {
            let delegator = Arc::downgrade(&delegator);
            move |_| {
                let delegator = delegator.upgrade().ok_or("no delegator")?;
                let (stats, worker) = (delegator.stats(), delegator.workers().remove(0));
                assert_eq!((stats.queued, stats.running, stats.completed), (0, 1, 0));
                Ok(worker.running.ok_or("nobody is running")?.to_string().into_bytes())
            }
        });
        let id = job.id();
        let handle = delegator.submit(job).expect("room");
        assert_eq!(handle.join().expect("completed"), id.to_string().into_bytes());
    });
}

#[test]
fn every_worker_calls_each_hook_once_on_its_own_thread() {
    watchdog(|| {
        #[derive(Debug, PartialEq)]
        enum Note {
            Start(usize),
            Job,
            Stop(usize),
        }
        let notes: Notes<(ThreadId, Note)> = Notes::default();
        let note = |what: fn(usize) -> Note| {
            let notes = Arc::clone(&notes);
            move |index: usize| {
                assert!(thread::current().name().is_some_and(|name| name.ends_with(&format!("-{index}"))));
                notes.lock().unwrap().push((thread::current().id(), what(index)));
            }
        };
        let delegator = Delegator::builder()
            .workers(4)
            .queue_capacity(64)
            .on_worker_start(note(Note::Start))
            .on_worker_stop(note(Note::Stop))
            .build()
            .unwrap();
        let barrier = Arc::new(Barrier::new(4));
        for _ in 0..16 {
            let (notes, barrier) = (Arc::clone(&notes), Arc::clone(&barrier));
            let job = Job::new("between", move |_| {
                notes.lock().unwrap().push((thread::current().id(), Note::Job));
                barrier.wait();
                Ok(Vec::new())
            });
            let _handle = delegator.submit(job).expect("room");
        }
        drop(delegator);

        let notes = notes.lock().unwrap();
        let threads: HashSet<ThreadId> = notes.iter().map(|(thread, _)| *thread).collect();
        assert_eq!((threads.len(), notes.len()), (4, 4 + 16 + 4), "{notes:?}");
        let mut indices = HashSet::new();
        for thread in threads {
            let own: Vec<&Note> =
                notes.iter().filter(|(on, _)| *on == thread).map(|(_, note)| note).collect();
            let (Some(Note::Start(first)), Some(Note::Stop(last))) = (own.first(), own.last()) else {
                panic!("a hook is missing or out of order: {own:?}")
            };
            assert_eq!(first, last);
            assert!(own[1..own.len() - 1].iter().all(|note| **note == Note::Job), "{own:?}");
            indices.insert(*first);
        }
        assert_eq!(indices, HashSet::from([0, 1, 2, 3]));
    });
}

#[test]
fn the_stop_hooks_have_run_when_a_shutdown_returns() {
    watchdog(|| {
        let (starts, stops) = (Counter::new(), Counter::new());
        let delegator = Delegator::builder()
            .workers(3)
            .on_worker_start(counts(&starts))
            .on_worker_stop(counts(&stops))
            .build()
            .unwrap();
        starts.wait_for(3);
        pause();
        assert_eq!(stops.get(), 0, "a worker stopped before the shutdown");
        delegator.shutdown(Shutdown::drain());
        assert_eq!((starts.get(), stops.get()), (3, 3));
        delegator.shutdown(Shutdown::cancel());
        drop(delegator);
        assert_eq!((starts.get(), stops.get()), (3, 3), "a hook ran twice");
    });
}

#[test]
fn a_start_hook_that_takes_its_time_holds_back_only_its_worker() {
    watchdog(|| {
        let slow = Gate::new();
        let delegator = Delegator::builder()
            .workers(2)
            .on_worker_start({
                let slow = slow.clone();
                move |index| {
                    if index == 0 {
                        slow.wait();
                    }
                }
            })
            .build()
            .unwrap();
        for _ in 0..10 {
            let record = delegator.submit(yields("served", "")).expect("room").wait();
            assert_eq!(record.worker(), Some(1));
        }
        slow.open();
    });
}

#[test]
fn a_job_may_submit_its_successor_for_ever() {
    struct Link {
        left: usize,
        submitter: Submitter,
        depth: Arc<AtomicUsize>,
        done: Gate,
    }

    impl Operation for Link {
        fn run(&self, _: &Context) -> Result<Vec<u8>, Error> {
            // Were the successor run inside this call, the depth would grow.
            assert_eq!(self.depth.fetch_add(1, Ordering::SeqCst), 0);
            if self.left == 0 {
                self.done.open();
            } else {
                let next = Link {
                    left: self.left - 1,
                    submitter: self.submitter.clone(),
                    depth: Arc::clone(&self.depth),
                    done: self.done.clone(),
                };
                let _handle = self
                    .submitter
                    .submit(Job::from_operation(next))
                    .map_err(SubmitError::into_job)
                    .expect("room");
            }
            self.depth.fetch_sub(1, Ordering::SeqCst);
            Ok(Vec::new())
        }
    }

    watchdog(|| {
        let delegator = sized(1, 1);
        let done = Gate::new();
        let first =
            Link { left: 2_000, submitter: delegator.submitter(), depth: Arc::default(), done: done.clone() };
        let _handle = delegator.submit(Job::from_operation(first)).expect("room");
        done.wait();
        delegator.wait_idle();
        assert_eq!(delegator.stats().completed, 2_001);
    });
}

#[test]
fn the_stack_is_as_large_as_asked_for() {
    /// Uses about one KiB of stack for each level.
    fn dig(levels: usize) -> usize {
        let mut buffer = std::hint::black_box([0_u8; 1_024]);
        buffer[levels % 1_024] = 1;
        let below = if levels == 0 { 0 } else { dig(levels - 1) };
        below + usize::from(std::hint::black_box(&buffer)[levels % 1_024])
    }

    watchdog(|| {
        // Many times what a thread gets when nobody asks.
        let delegator = Delegator::builder().workers(1).stack_size(32 << 20).build().unwrap();
        let job = Job::new("deep", |_| Ok(dig(4 << 10).to_le_bytes().to_vec()));
        assert_eq!(delegator.submit(job).expect("room").wait().state(), JobState::Completed);
    });
}

#[test]
fn a_small_stack_is_enough_for_a_small_job() {
    watchdog(|| {
        let delegator =
            Delegator::builder().workers(2).queue_capacity(4).stack_size(256 << 10).build().unwrap();
        let handles: Vec<_> =
            (0..50).map(|_| delegator.submit(yields("small", "x")).expect("room")).collect();
        assert!(handles.iter().all(|handle| handle.wait().state() == JobState::Completed));
    });
}

#[test]
fn a_slow_job_holds_back_only_its_worker() {
    watchdog(|| {
        let delegator = sized(2, 8);
        let busy = occupy(&delegator);
        for _ in 0..20 {
            assert_eq!(
                delegator.submit(yields("fast", "")).expect("room").wait().state(),
                JobState::Completed
            );
        }
        assert_eq!(busy.handle.state(), JobState::Running);
        busy.release();
    });
}

#[test]
fn work_that_comes_after_a_long_silence_is_taken_up() {
    watchdog(|| {
        let delegator = sized(4, 8);
        for _ in 0..5 {
            // Long enough for every worker to have gone to sleep.
            thread::sleep(std::time::Duration::from_millis(60));
            let barrier = Arc::new(Barrier::new(4));
            let handles: Vec<_> = (0..4)
                .map(|_| {
                    let barrier = Arc::clone(&barrier);
                    let job = Job::new("all hands", move |_| {
                        barrier.wait();
                        Ok(Vec::new())
                    });
                    delegator.submit(job).expect("room")
                })
                .collect();
            assert!(handles.iter().all(|handle| handle.wait().state() == JobState::Completed));
        }
    });
}

#[test]
fn a_thread_local_may_use_the_crate_while_its_thread_ends() {
    /// What a thread does last. A panic in here would end the process.
    struct Farewell {
        submitter: Submitter,
        earlier: JobHandle,
        said: Counter,
    }

    impl Drop for Farewell {
        fn drop(&mut self) {
            if let Ok(handle) = self.submitter.submit(yields("farewell", "")) {
                assert_eq!(handle.wait().state(), JobState::Completed);
            }
            assert_eq!(self.earlier.wait().state(), JobState::Completed);
            let _seen = (self.earlier.done(), self.earlier.cancel(), format!("{:?}", self.submitter));
            let (ctx, canceller) = Context::background().with_cancel();
            let _registered = ctx.on_done(|| {});
            canceller.cancel();
            assert!(ctx.sleep(common::FOREVER).is_err());
            self.said.add();
        }
    }

    thread_local! {
        static LAST: RefCell<Option<Farewell>> = const { RefCell::new(None) };
    }

    watchdog(|| {
        let delegator = delegator(1);
        let said = Counter::new();
        let earlier = delegator.submit(yields("earlier", "")).expect("room");
        let leave = {
            let (submitter, said) = (delegator.submitter(), said.clone());
            move || {
                let (submitter, earlier, said) = (submitter.clone(), earlier.clone(), said.clone());
                LAST.set(Some(Farewell { submitter, earlier, said }));
            }
        };
        thread::spawn(leave.clone()).join().unwrap();
        said.wait_for(1);
        let job = Job::new("leaves", move |_| {
            leave();
            Ok(Vec::new())
        });
        assert_eq!(delegator.submit(job).expect("room").wait().state(), JobState::Completed);
        drop(delegator);
        said.wait_for(2);
    });
}

#[test]
fn delegators_do_not_mix_up_their_jobs() {
    watchdog(|| {
        let [one, two] =
            ["one", "two"].map(|name| Delegator::builder().workers(1).thread_name(name).build().unwrap());
        let whoami =
            || Job::new("whoami", |_| Ok(thread::current().name().unwrap_or("").as_bytes().to_vec()));
        for _ in 0..20 {
            assert_eq!(one.submit(whoami()).expect("room").join().unwrap(), b"one-0");
            assert_eq!(two.submit(whoami()).expect("room").join().unwrap(), b"two-0");
        }
        assert_eq!((one.stats().completed, two.stats().completed), (20, 20));
        let (started, release) = (Gate::new(), Gate::new());
        let held = one.submit(gated("held", &started, &release)).expect("room");
        started.wait();
        assert!(two.wait_idle_timeout(common::PATIENCE));
        assert!(!held.is_finished());
        release.open();
    });
}
