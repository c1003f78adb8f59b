//! Jobs that submit jobs and wait for them, with as few workers and places as possible.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use common::{BRIEF, Counter, DropFlag, FOREVER, Gate, gated, watchdog, yields};
use pool::{assert_balanced, keeps, obedient, pause, sized};
use workpath::{Context, Error, Job, JobState, SubmitError, Submitter};

/// The little endian number in a payload.
fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

/// A job that runs `body` with a submitter of its own delegator.
fn with_submitter(
    name: &'static str,
    submitter: &Submitter,
    body: impl Fn(&Context, &Submitter) -> Result<Vec<u8>, Error> + Send + 'static,
) -> Job {
    let submitter = submitter.clone();
    Job::new(name, move |ctx| body(ctx, &submitter))
}

#[test]
fn a_job_can_wait_for_a_job_on_the_only_worker() {
    watchdog(|| {
        for capacity in [0, 1, 8] {
            let delegator = sized(1, capacity);
            let outer = with_submitter("outer", &delegator.submitter(), |_, submitter| {
                let inner = submitter.submit(yields("inner", "from below"))?;
                inner.join()
            });
            let handle = delegator.submit(outer).expect("room");
            assert_eq!(handle.join().expect("completed"), b"from below", "{capacity} places");
            delegator.wait_idle();
            assert_eq!(delegator.stats().completed, 2);
            assert_balanced(&delegator.stats());
        }
    });
}

#[test]
fn jobs_can_be_nested_deeply_on_the_only_worker() {
    fn level(submitter: Submitter, left: u64) -> Job {
        Job::new("level", move |_| {
            if left == 0 {
                return Ok(0_u64.to_le_bytes().to_vec());
            }
            let below = submitter.submit(level(submitter.clone(), left - 1))?.join()?;
            Ok((number(&below) + 1).to_le_bytes().to_vec())
        })
    }

    watchdog(|| {
        for (workers, capacity) in [(1, 0), (1, 1), (2, 1), (1, 64)] {
            let delegator = sized(workers, capacity);
            let top = delegator.submit(level(delegator.submitter(), 60)).expect("room");
            assert_eq!(number(&top.join().expect("completed")), 60);
            delegator.wait_idle();
            assert_eq!(delegator.stats().completed, 61);
        }
    });
}

#[test]
fn a_job_can_have_a_hundred_children_on_the_only_worker() {
    watchdog(|| {
        for (workers, capacity) in [(1, 0), (1, 1), (1, 128), (2, 1)] {
            let delegator = sized(workers, capacity);
            let parent = with_submitter("parent", &delegator.submitter(), |_, submitter| {
                let children = (0..100_u64)
                    .map(|n| submitter.submit(yields("child", n.to_le_bytes())))
                    .collect::<Result<Vec<_>, _>>()?;
                let mut sum = 0;
                for child in children {
                    sum += number(&child.join()?);
                }
                Ok(sum.to_le_bytes().to_vec())
            });
            let handle = delegator.submit(parent).expect("room");
            assert_eq!(number(&handle.join().expect("completed")), (0..100).sum::<u64>());
            delegator.wait_idle();
            assert_eq!(delegator.stats().completed, 101);
        }
    });
}

#[test]
fn a_tree_of_jobs_comes_together() {
    fn fibonacci(submitter: Submitter, n: u64) -> Job {
        Job::new("fibonacci", move |_| {
            if n < 2 {
                return Ok(n.to_le_bytes().to_vec());
            }
            let one = submitter.submit(fibonacci(submitter.clone(), n - 1))?;
            let two = submitter.submit(fibonacci(submitter.clone(), n - 2))?;
            Ok((number(&one.join()?) + number(&two.join()?)).to_le_bytes().to_vec())
        })
    }

    watchdog(|| {
        for (workers, capacity) in [(1, 1), (2, 0), (3, 4), (2, 1_000)] {
            let delegator = sized(workers, capacity);
            let handle = delegator.submit(fibonacci(delegator.submitter(), 11)).expect("room");
            assert_eq!(number(&handle.join().expect("completed")), 89);
            delegator.wait_idle();
            assert_balanced(&delegator.stats());
        }
    });
}

#[test]
fn a_wait_runs_the_queued_job_on_the_waiting_worker_and_no_other() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let order: Arc<Mutex<Vec<(&str, ThreadId)>>> = Arc::default();
        let note = |name: &'static str| {
            let order = Arc::clone(&order);
            Job::new(name, move |_| {
                order.lock().unwrap().push((name, thread::current().id()));
                Ok(Vec::new())
            })
        };
        let (first, wanted) = (note("first"), note("wanted"));
        let jobs = Mutex::new(Some((first, wanted)));
        let outer = with_submitter("outer", &delegator.submitter(), {
            let order = Arc::clone(&order);
            move |_, submitter| {
                let (first, wanted) = jobs.lock().unwrap().take().expect("runs once");
                let first = submitter.submit(first)?;
                let wanted = submitter.submit(wanted)?;
                assert_eq!(wanted.wait().state(), JobState::Completed);
                assert_eq!(wanted.wait().worker(), Some(0));
                // What nobody waits for stays where it is.
                assert_eq!(first.state(), JobState::Queued);
                order.lock().unwrap().push(("outer", thread::current().id()));
                Ok(Vec::new())
            }
        });
        delegator.submit(outer).expect("room").join().expect("completed");
        delegator.wait_idle();
        let order = order.lock().unwrap();
        let (names, threads): (Vec<_>, Vec<_>) = order.iter().copied().unzip();
        assert_eq!(names, ["wanted", "outer", "first"]);
        assert!(threads.iter().all(|thread| *thread == threads[0]));
    });
}

#[test]
fn a_worker_that_waits_for_a_running_job_runs_nothing_else() {
    watchdog(|| {
        let delegator = sized(2, 8);
        let (started, release) = (Gate::new(), Gate::new());
        let slow = delegator.submit(gated("slow", &started, &release)).expect("room");
        started.wait();
        let waiting = Gate::new();
        let waits = Job::new("waits", {
            let (slow, waiting) = (slow.clone(), waiting.clone());
            move |_| {
                waiting.open();
                assert_eq!(slow.wait().state(), JobState::Completed);
                Ok(Vec::new())
            }
        });
        let waits = delegator.submit(waits).expect("room");
        waiting.wait();
        let unrelated = delegator.submit(Job::new("unrelated", {
            let release = release.clone();
            move |_| {
                assert!(release.is_open(), "ran inside a job that waits for another");
                Ok(Vec::new())
            }
        }));
        let unrelated = unrelated.expect("room");
        pause();
        assert_eq!(unrelated.state(), JobState::Queued);
        release.open();
        assert_eq!(waits.wait().state(), JobState::Completed);
        assert_eq!(unrelated.wait().state(), JobState::Completed);
    });
}

#[test]
fn a_submit_to_a_full_queue_from_its_only_worker_runs_the_job_at_once() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let outer = with_submitter("outer", &delegator.submitter(), |_, submitter| {
            let queued = submitter.submit(yields("queued", ""))?;
            assert_eq!(queued.state(), JobState::Queued);
            let here = thread::current().id();
            let (flag, dropped) = DropFlag::new();
            let inline = submitter.submit(Job::new("inline", move |_| {
                let _owned = &flag;
                assert_eq!(thread::current().id(), here);
                Ok(b"at once".to_vec())
            }))?;
            let record = inline.try_wait().expect("it ran before submit returned");
            assert_eq!((record.state(), record.payload()), (JobState::Completed, Some(&b"at once"[..])));
            assert_eq!(record.worker(), Some(0));
            assert!(dropped.is_open());
            // The queue is as it was.
            assert_eq!(queued.state(), JobState::Queued);
            assert!(matches!(submitter.try_submit(yields("refused", "")), Err(SubmitError::Full(_))));
            Ok(Vec::new())
        });
        delegator.submit(outer).expect("room").join().expect("completed");
        delegator.wait_idle();
        let stats = delegator.stats();
        assert_eq!((stats.submitted, stats.completed, stats.rejected), (3, 3, 1));
        assert_balanced(&stats);
    });
}

#[test]
fn the_timed_forms_run_nothing_inside_a_worker() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let outer = with_submitter("outer", &delegator.submitter(), |_, submitter| {
            let queued = submitter.submit(yields("queued", ""))?;
            let limit = Duration::from_millis(20);

            let start = Instant::now();
            assert!(queued.wait_timeout(limit).is_none());
            assert!(start.elapsed() >= limit);
            let deadline = Instant::now() + limit;
            assert!(queued.wait_deadline(deadline).is_none());
            assert!(Instant::now() >= deadline);
            assert!(queued.try_wait().is_none());
            assert!(queued.wait_timeout(Duration::ZERO).is_none());
            assert_eq!(queued.state(), JobState::Queued);

            let ran = Counter::new();
            let job = || {
                let ran = ran.clone();
                Job::new("refused", move |_| {
                    ran.add();
                    Ok(Vec::new())
                })
            };
            let start = Instant::now();
            assert!(matches!(submitter.submit_timeout(job(), limit), Err(SubmitError::Timeout(_))));
            assert!(start.elapsed() >= limit);
            let deadline = Instant::now() + limit;
            assert!(matches!(submitter.submit_deadline(job(), deadline), Err(SubmitError::Timeout(_))));
            assert!(Instant::now() >= deadline);
            assert!(matches!(submitter.try_submit(job()), Err(SubmitError::Full(_))));
            assert_eq!(ran.get(), 0);

            // Without a limit they are the forms that help themselves.
            assert!(submitter.submit_timeout(job(), Duration::MAX)?.is_finished());
            assert_eq!(ran.get(), 1);
            assert!(queued.wait_timeout(Duration::MAX).is_some());
            Ok(Vec::new())
        });
        delegator.submit(outer).expect("room").join().expect("completed");
        delegator.wait_idle();
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn what_runs_inside_another_job_has_its_own_context() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let (ctx, _canceller) = Context::background().with_value("who", "outer").with_cancel();
        let outer = with_submitter("outer", &delegator.submitter(), |ctx, submitter| {
            assert_eq!(ctx.value::<&str>("who"), Some(&"outer"));
            let who = || {
                Job::new("who", |ctx| Ok(ctx.value::<&str>("who").unwrap_or(&"nobody").as_bytes().to_vec()))
            };
            let stranger = submitter.submit(who())?;
            assert_eq!(stranger.join()?, b"nobody");
            let child = submitter.submit(who().with_context(&ctx.with_value("who", "inner")))?;
            assert_eq!(child.join()?, b"inner");
            let heir = submitter.submit(who().with_context(ctx))?;
            assert_eq!(heir.join()?, b"outer");
            assert_eq!(ctx.value::<&str>("who"), Some(&"outer"));
            Ok(Vec::new())
        });
        delegator.submit(outer.with_context(&ctx)).expect("room").join().expect("completed");
    });
}

#[test]
fn what_runs_inside_another_job_ends_with_it_when_it_shares_its_context() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let started = Gate::new();
        let outer = with_submitter("outer", &delegator.submitter(), {
            let started = started.clone();
            move |ctx, submitter| {
                let inner = submitter.submit(obedient("inner", &started).with_context(ctx))?;
                assert_eq!(inner.wait().state(), JobState::Cancelled);
                ctx.check()?;
                Ok(Vec::new())
            }
        });
        let handle = delegator.submit(outer).expect("room");
        started.wait();
        assert!(handle.cancel());
        assert_eq!(handle.wait().state(), JobState::Cancelled);
        delegator.wait_idle();
        assert_eq!(delegator.stats().cancelled, 2);
    });
}

#[test]
fn a_queued_child_that_is_cancelled_or_late_never_runs_inside_its_parent() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let outer = with_submitter("outer", &delegator.submitter(), |_, submitter| {
            let ran = Counter::new();
            let job = || {
                let ran = ran.clone();
                Job::new("child", move |_| {
                    ran.add();
                    Ok(Vec::new())
                })
            };
            let cancelled = submitter.submit(job())?;
            assert!(cancelled.cancel());
            assert_eq!(cancelled.wait().state(), JobState::Cancelled);
            let (ctx, canceller) = Context::background().with_cancel();
            let stopped = submitter.submit(job().with_context(&ctx))?;
            canceller.cancel();
            assert_eq!(stopped.wait().state(), JobState::Cancelled);
            let deadline = Instant::now() + BRIEF;
            let late = submitter.submit(job().with_deadline(deadline))?;
            thread::sleep(deadline.saturating_duration_since(Instant::now()));
            assert_eq!(late.wait().state(), JobState::TimedOut);
            assert_eq!(ran.get(), 0);
            Ok(Vec::new())
        });
        delegator.submit(outer).expect("room").join().expect("completed");
    });
}

#[test]
fn a_parent_may_drop_the_handles_of_its_children() {
    watchdog(|| {
        let delegator = sized(1, 2);
        let ran = Arc::new(AtomicUsize::new(0));
        let outer = with_submitter("outer", &delegator.submitter(), {
            let ran = Arc::clone(&ran);
            move |_, submitter| {
                for _ in 0..10 {
                    let ran = Arc::clone(&ran);
                    drop(submitter.submit(Job::new("child", move |_| {
                        ran.fetch_add(1, Ordering::SeqCst);
                        Ok(Vec::new())
                    }))?);
                }
                Ok(Vec::new())
            }
        });
        let _handle = delegator.submit(outer).expect("room");
        delegator.wait_idle();
        assert_eq!(ran.load(Ordering::SeqCst), 10);
    });
}

#[test]
fn two_delegators_can_wait_for_each_others_jobs() {
    watchdog(|| {
        let (one, two) = (sized(1, 1), sized(1, 1));
        let outer = Job::new("outer", {
            let (one, two) = (one.submitter(), two.submitter());
            move |_| {
                let there = with_submitter("there", &two, |_, two| {
                    let child = two.submit(yields("child", "two"))?;
                    child.join()
                });
                let here = one.submit(yields("here", "one"))?;
                let there = two.submit(there)?;
                Ok([there.join()?, here.join()?].concat())
            }
        });
        for _ in 0..20 {
            let outer = one.submit(Job::new("again", {
                let one = one.submitter();
                move |_| one.submit(yields("warm-up", ""))?.join()
            }));
            outer.expect("room").wait();
        }
        assert_eq!(one.submit(outer).expect("room").join().expect("completed"), b"twoone");
        one.wait_idle();
        two.wait_idle();
        assert_eq!((one.stats().completed, two.stats().completed), (42, 2));
    });
}

#[test]
fn two_delegators_that_call_each_other_at_the_same_time_get_through() {
    watchdog(|| {
        // Each has a second worker for what comes from the other side.
        let (one, two) = (sized(2, 4), sized(2, 4));
        let ping = |there: Submitter| {
            Job::new("ping", move |_| {
                let pong = there.submit(yields("pong", "p"))?;
                pong.join()
            })
        };
        for _ in 0..200 {
            let left = one.submit(ping(two.submitter())).expect("room");
            let right = two.submit(ping(one.submitter())).expect("room");
            assert_eq!((left.join().unwrap(), right.join().unwrap()), (b"p".to_vec(), b"p".to_vec()));
        }
    });
}

#[test]
fn a_deadline_frees_two_delegators_that_wait_for_each_other() {
    watchdog(|| {
        // The job on one waits for a job on two, which waits for a job that only the first worker could run.
        let (one, two) = (sized(1, 1), sized(1, 1));
        let outer = Job::new("outer", {
            let (one, two) = (one.submitter(), two.submitter());
            move |_| {
                let one = one.clone();
                let there = two.submit(Job::new("there", move |_| {
                    let back = one.submit(yields("back", "").with_timeout(Duration::from_millis(50)))?;
                    back.join()
                }))?;
                there.join()
            }
        });
        let handle = one.submit(outer).expect("room");
        match handle.join() {
            Ok(bytes) => assert!(bytes.is_empty()),
            Err(error) => assert!(error.is_timeout(), "{error}"),
        }
        one.wait_idle();
        two.wait_idle();
        assert_balanced(&one.stats());
        assert_balanced(&two.stats());
    });
}

#[test]
fn a_job_can_submit_to_the_full_queue_of_another_delegator() {
    watchdog(|| {
        let (one, two) = (sized(1, 1), sized(1, 1));
        let busy = common::occupy(&two);
        let _queued = pool::fill(&two, 1);
        let submitting = Gate::new();
        let outer = Job::new("outer", {
            let (two, submitting) = (two.submitter(), submitting.clone());
            move |_| {
                let here = thread::current().id();
                submitting.open();
                let there = two.submit(Job::new("there", move |_| {
                    assert_ne!(thread::current().id(), here, "ran on a worker of the wrong delegator");
                    Ok(Vec::new())
                }))?;
                there.join()
            }
        });
        let handle = one.submit(outer).expect("room");
        submitting.wait();
        pause();
        assert_eq!(handle.state(), JobState::Running);
        busy.release();
        assert!(handle.join().is_ok());
    });
}

#[test]
fn workers_that_wait_for_each_other_s_children_get_through() {
    watchdog(|| {
        let delegator = sized(3, 2);
        let handles: Vec<_> = (0..60_u64)
            .map(|n| {
                let parent = with_submitter("parent", &delegator.submitter(), move |ctx, submitter| {
                    let children = (0..n % 7)
                        .map(|_| {
                            let grandchild = with_submitter("child", submitter, |_, submitter| {
                                submitter.submit(yields("grandchild", 1_u64.to_le_bytes()))?.join()
                            });
                            submitter.submit(grandchild.with_context(ctx))
                        })
                        .collect::<Result<Vec<_>, _>>()?;
                    let mut sum = 0;
                    for child in children {
                        sum += number(&child.join()?);
                    }
                    Ok(sum.to_le_bytes().to_vec())
                });
                delegator.submit(parent).expect("room")
            })
            .collect();
        for (n, handle) in (0..60).zip(handles) {
            assert_eq!(number(&handle.join().expect("completed")), n % 7);
        }
        delegator.wait_idle();
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn a_child_that_runs_inside_its_parent_is_free_of_what_it_owned_when_the_wait_returns() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 4));
        let outer = Job::new("outer", {
            let (submitter, delegator) = (delegator.submitter(), Arc::downgrade(&delegator));
            move |_| {
                let (flag, dropped) = DropFlag::new();
                let child = submitter.submit(keeps("child", flag))?;
                let record = child.wait();
                assert!(dropped.is_open());
                let delegator = delegator.upgrade().ok_or("no delegator")?;
                assert!(delegator.registry().get(record.id()).is_some());
                assert_eq!((delegator.stats().completed, delegator.stats().queued), (1, 0));
                Ok(Vec::new())
            }
        });
        delegator.submit(outer).expect("room").join().expect("completed");
    });
}

#[test]
fn a_worker_is_back_at_its_own_job_after_it_ran_another_inside_it() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 4));
        let outer = Job::new("outer", {
            let (submitter, delegator) = (delegator.submitter(), Arc::downgrade(&delegator));
            move |_| {
                let delegator = delegator.upgrade().ok_or("no delegator")?;
                let own = delegator.workers()[0].running;
                submitter.submit(yields("inner", ""))?.wait();
                assert_eq!(delegator.workers()[0].running, own);
                assert_eq!(delegator.stats().running, 1);
                Ok(own.ok_or("nobody runs")?.to_string().into_bytes())
            }
        });
        let handle = delegator.submit(outer).expect("room");
        let id = handle.id();
        assert_eq!(handle.join().expect("completed"), id.to_string().into_bytes());
    });
}

#[test]
fn a_time_limit_on_the_children_lets_the_parent_go_on() {
    watchdog(|| {
        let delegator = sized(1, 4);
        let outer = with_submitter("outer", &delegator.submitter(), |ctx, submitter| {
            let short = ctx.with_timeout(BRIEF);
            let child = submitter.submit(obedient("child", &Gate::new()).with_context(&short))?;
            assert_eq!(child.wait().state(), JobState::TimedOut);
            ctx.check()?;
            Ok(b"went on".to_vec())
        });
        let handle = delegator.submit(outer.with_timeout(FOREVER)).expect("room");
        assert_eq!(handle.join().expect("completed"), b"went on");
    });
}
