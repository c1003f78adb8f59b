//! `JobSet`: waiting for many jobs, in either order, for the first good or bad one, and who is cancelled when.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{BRIEF, Counter, DropFlag, FOREVER, Gate, fails, gated, occupy, panics, watchdog, yields};
use pool::{assert_balanced, keeps, obedient, pause, sized};
use workpath::{Context, Delegator, Error, Job, JobRecord, JobState, Retention, Shutdown, SubmitErrorKind};

fn names(records: &[JobRecord]) -> Vec<&str> {
    records.iter().map(JobRecord::name).collect()
}

#[test]
fn all_are_collected_in_the_order_of_submission() {
    watchdog(|| {
        for (workers, capacity) in [(1, 0), (1, 1), (2, 64), (4, 3)] {
            let delegator = sized(workers, capacity);
            let mut set = delegator.job_set();
            for n in 0..200_u8 {
                set.submit(Job::new("job", move |_| Ok(vec![n]))).expect("open");
            }
            let payloads: Vec<u8> =
                set.wait_all().iter().map(|record| record.payload().unwrap()[0]).collect();
            assert!(payloads.into_iter().eq(0..200));
            assert!(set.is_empty());
            assert!(set.wait_all().is_empty(), "collected once");
            assert_balanced(&delegator.stats());
        }
    });
}

#[test]
fn the_next_is_the_one_that_finishes_next() {
    watchdog(|| {
        let delegator = sized(3, 8);
        let gates = [Gate::new(), Gate::new(), Gate::new()];
        let mut set = delegator.job_set();
        for (name, gate) in ["a", "b", "c"].into_iter().zip(&gates) {
            set.submit(gated(name, &Gate::new(), gate)).expect("open");
        }
        assert!(set.next_finished(Duration::ZERO).is_none());
        assert!(set.next_finished(BRIEF).is_none());
        for (index, name) in [(1, "b"), (2, "c"), (0, "a")] {
            gates[index].open();
            assert_eq!(set.next_finished(FOREVER).expect("one is finished").name(), name);
        }
        assert!(set.next_finished(Duration::MAX).is_none(), "an empty set has no next");
    });
}

#[test]
fn a_wait_that_has_gone_to_sleep_ends_with_what_it_waits_for() {
    watchdog(|| {
        let delegator = sized(2, 8);
        let release = Gate::new();
        let mut set = delegator.job_set();
        for name in ["one", "another"] {
            set.submit(gated(name, &Gate::new(), &release)).expect("open");
        }
        // Not scoped: the end of such a thread would wake this one. And it looks around for a moment before it sleeps.
        let opens = thread::spawn(move || {
            thread::sleep(10 * BRIEF);
            release.open();
        });
        assert!(set.next_finished(FOREVER).is_some());
        assert_eq!(set.wait_all().len(), 1);
        opens.join().unwrap();
    });
}

#[test]
fn a_timeout_is_waited_for_in_full() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let mut set = delegator.job_set();
        set.submit(yields("queued", "")).expect("room");
        let begun = Instant::now();
        assert!(set.next_finished(BRIEF).is_none());
        assert!(begun.elapsed() >= BRIEF);
        assert_eq!(set.len(), 1);
        busy.release();
        assert_eq!(set.wait_all()[0].state(), JobState::Completed);
    });
}

#[test]
fn a_set_can_be_used_again_and_in_turns() {
    watchdog(|| {
        let delegator = sized(2, 8);
        let mut set = delegator.job_set();
        for round in 0..50_u8 {
            set.submit_all((0..5).map(|_| yields("job", [round]))).expect("open");
            assert!(set.next_finished(Duration::MAX).is_some());
            let rest = set.wait_all();
            assert_eq!(rest.len(), 4);
            assert!(rest.iter().all(|record| record.payload() == Some(&[round][..])));
        }
    });
}

#[test]
fn the_first_good_answer_cancels_the_losers() {
    watchdog(|| {
        let delegator = sized(2, 8);
        let (started, (flag, dropped)) = (Gate::new(), DropFlag::new());
        let mut set = delegator.job_set();
        set.submit(obedient("slow", &started)).expect("open");
        set.submit(fails("failed", "no")).expect("open");
        set.submit(panics("panicked", "boom")).expect("open");
        started.wait();
        let winner = set.submit(yields("good", "yes")).expect("open");
        let record = set.first_ok().expect("one completes");
        assert_eq!((record.id(), record.payload()), (winner, Some(&b"yes"[..])));
        assert!(set.is_empty());
        delegator.wait_idle();
        let slow = delegator.registry().records().into_iter().find(|record| record.name() == "slow");
        let slow = slow.expect("kept");
        assert_eq!(slow.state(), JobState::Cancelled);
        assert_eq!(slow.error().unwrap().to_string(), "cancelled: another job of its set completed first");
        set.submit(keeps("later", flag)).expect("open");
        assert_eq!(set.wait_all().len(), 1, "usable again");
        assert!(dropped.is_open());
    });
}

#[test]
fn losers_that_had_not_started_are_over_at_once() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let (flag, dropped) = DropFlag::new();
        let mut set = delegator.job_set();
        let (started, release) = (Gate::new(), Gate::new());
        set.submit(yields("good", "")).expect("open");
        set.submit(gated("holds the worker", &started, &release)).expect("open");
        set.submit(keeps("queued", flag)).expect("open");
        started.wait();
        assert_eq!(set.first_ok().expect("one completed").name(), "good");
        assert!(dropped.is_open(), "its captures are gone when first_ok returns");
        release.open();
    });
}

#[test]
fn without_a_good_answer_all_records_come_back() {
    watchdog(|| {
        let delegator = sized(2, 8);
        let mut set = delegator.job_set();
        set.submit_all([fails("failed", "no"), panics("panicked", "boom")]).expect("open");
        let mut states: Vec<_> = set.first_ok().expect_err("none").iter().map(JobRecord::state).collect();
        states.sort_by_key(|state| *state == JobState::Panicked);
        assert_eq!(states, [JobState::Failed, JobState::Panicked]);
        assert!(set.first_ok().expect_err("an empty set").is_empty());
    });
}

#[test]
fn the_first_error_cancels_the_rest_and_a_panic_is_one() {
    watchdog(|| {
        for bad in [fails("bad", "no"), panics("bad", "boom"), yields("bad", "").with_timeout(Duration::ZERO)]
        {
            let delegator = sized(2, 8);
            let mut set = delegator.job_set();
            let started = Gate::new();
            set.submit(obedient("slow", &started)).expect("open");
            started.wait();
            set.submit(yields("good", "")).expect("open");
            set.submit(bad).expect("open");
            assert_eq!(set.first_error().expect_err("one is bad").name(), "bad");
            delegator.wait_idle();
            let records = delegator.registry().records();
            let slow = records.iter().find(|record| record.name() == "slow").expect("kept");
            assert_eq!(slow.error().unwrap().to_string(), "cancelled: another job of its set failed");
        }
    });
}

#[test]
fn without_an_error_all_come_in_the_order_of_submission() {
    watchdog(|| {
        let delegator = sized(2, 8);
        let (slow, mut set) = (Gate::new(), delegator.job_set());
        set.submit(gated("slow", &Gate::new(), &slow)).expect("open");
        let opens = slow.clone();
        set.submit(Job::new("quick", move |_| {
            opens.open();
            Ok(Vec::new())
        }))
        .expect("open");
        assert_eq!(names(&set.first_error().expect("both complete")), ["slow", "quick"]);
        assert!(set.first_error().expect("an empty set").is_empty());
    });
}

#[test]
fn dropping_a_set_cancels_what_it_owns_and_detaching_does_not() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let started = Gate::new();
        let (flag, dropped) = DropFlag::new();
        let mut set = delegator.job_set();
        set.submit(obedient("runs", &started)).expect("open");
        set.submit(keeps("queued", flag)).expect("open");
        started.wait();
        drop(set);
        assert!(dropped.is_open());
        delegator.wait_idle();
        assert_eq!(delegator.stats().cancelled, 2);

        let mut set = delegator.job_set();
        set.submit(yields("detached", "")).expect("open");
        set.detach();
        delegator.wait_idle();
        assert_eq!(delegator.stats().completed, 1);
    });
}

#[test]
fn cancelled_members_stay_to_be_collected() {
    for (cause, text) in [(None, "cancelled"), (Some("enough"), "cancelled: enough")] {
        watchdog(move || {
            let delegator = sized(1, 8);
            let started = Gate::new();
            let mut set = delegator.job_set();
            set.submit(obedient("runs", &started)).expect("open");
            set.submit(yields("queued", "")).expect("open");
            started.wait();
            match cause {
                None => set.cancel(),
                Some(cause) => set.cancel_with(cause),
            }
            let records = set.wait_all();
            assert_eq!(names(&records), ["runs", "queued"]);
            for record in records {
                assert_eq!(record.error().unwrap().to_string(), text);
            }
        });
    }
}

#[test]
fn a_wait_ends_when_the_context_ends_the_queued_members() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let (ctx, canceller) = Context::background().with_cancel();
        let mut set = delegator.job_set().with_context(&ctx);
        set.submit_all((0..5).map(|_| yields("queued", ""))).expect("room");
        let waiter = thread::spawn(move || set.wait_all());
        pause();
        canceller.cancel_with("closed");
        let records = waiter.join().expect("no panic");
        assert!(records.iter().all(|record| record.state() == JobState::Cancelled));

        let soon = Context::background().with_timeout(BRIEF);
        let mut set = delegator.job_set().with_context(&soon);
        set.submit_all((0..5).map(|_| yields("queued", ""))).expect("room");
        assert_eq!(set.next_finished(FOREVER).expect("in time").state(), JobState::TimedOut);
        assert!(set.wait_all().iter().all(|record| record.state() == JobState::TimedOut));
        drop(busy);
    });
}

#[test]
fn a_wait_for_the_next_goes_on_when_the_context_ends_but_no_member() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let (ctx, canceller) = Context::background().with_cancel();
        let mut set = delegator.job_set().with_context(&ctx);
        let (started, release) = (Gate::new(), Gate::new());
        set.submit(gated("deaf", &started, &release)).expect("room");
        started.wait();
        canceller.cancel();
        let waiter = thread::spawn(move || set.next_finished(FOREVER).map(|record| record.state()));
        pause();
        release.open();
        assert_eq!(waiter.join().expect("no panic"), Some(JobState::Completed));
    });
}

#[test]
fn a_wait_ends_when_a_member_has_an_end_of_its_own() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let (own, canceller) = Context::background().with_value("own", 1_u8).with_cancel();
        let mut set = delegator.job_set();
        set.submit(yields("cancelled", "").with_context(&own)).expect("room");
        set.submit(yields("late", "").with_timeout(BRIEF)).expect("room");
        assert_eq!(set.next_finished(FOREVER).expect("at its deadline").state(), JobState::TimedOut);
        let waiter = thread::spawn(move || set.wait_all());
        pause();
        canceller.cancel();
        assert_eq!(waiter.join().expect("no panic")[0].state(), JobState::Cancelled);
        drop(busy);
    });
}

#[test]
fn a_default_timeout_wakes_the_set_too() {
    watchdog(|| {
        let builder = Delegator::builder().workers(1).default_timeout(BRIEF);
        let delegator = builder.build().expect("a delegator");
        let (started, release) = (Gate::new(), Gate::new());
        let _busy = delegator.submit(gated("busy", &started, &release)).expect("room");
        started.wait();
        let mut set = delegator.job_set();
        set.submit(yields("queued", "")).expect("room");
        assert_eq!(set.wait_all()[0].state(), JobState::TimedOut);
        release.open();
    });
}

#[test]
fn members_get_the_context_of_the_set_unless_they_have_one() {
    watchdog(|| {
        let delegator = sized(2, 8);
        let ctx = Context::background().with_value("n", 1_u8);
        let mut set = delegator.job_set().with_context(&ctx);
        assert_eq!(set.context().value::<u8>("n"), Some(&1));
        let sees = || Job::new("sees", |ctx| Ok(vec![ctx.value::<u8>("n").copied().unwrap_or_default()]));
        set.submit(sees()).expect("open");
        set.submit(sees().with_timeout(FOREVER)).expect("open");
        set.submit(sees().with_context(&set.context().with_value("n", 2_u8))).expect("open");
        set.submit(sees().with_context(&Context::background().with_value("m", 3_u8))).expect("open");
        let seen: Vec<u8> = set.wait_all().iter().map(|record| record.payload().unwrap()[0]).collect();
        assert_eq!(seen, [1, 1, 2, 0]);
    });
}

#[test]
fn another_context_leaves_earlier_members_theirs() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let (first, canceller) = Context::background().with_cancel();
        let mut set = delegator.job_set().with_context(&first);
        set.submit(yields("earlier", "")).expect("room");
        let mut set = set.with_context(&Context::background());
        let waiter = thread::spawn(move || set.wait_all());
        pause();
        canceller.cancel();
        assert_eq!(waiter.join().expect("no panic")[0].state(), JobState::Cancelled);
        drop(busy);
    });
}

#[test]
fn no_more_than_the_limit_are_in_flight() {
    watchdog(|| {
        let delegator = sized(4, 64);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let job = || {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            Job::new("job", move |_| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(Vec::new())
            })
        };
        let mut set = delegator.job_set().max_in_flight(2);
        for _ in 0..100 {
            set.submit(job()).expect("open");
        }
        set.submit_all((0..100).map(|_| job())).expect("open");
        assert_eq!(set.wait_all().len(), 200);
        assert!(most.load(Ordering::SeqCst) <= 2);
        assert_eq!(delegator.job_set().max_in_flight(0).map("one", 0..3, |_, _| Ok(Vec::new())).count(), 3);
    });
}

#[test]
fn a_wait_for_a_place_ends_with_the_context() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let (ctx, canceller) = Context::background().with_cancel();
        let mut set = delegator.job_set().with_context(&ctx).max_in_flight(1);
        let (started, release) = (Gate::new(), Gate::new());
        set.submit(gated("holds the place", &started, &release)).expect("open");
        started.wait();
        let waiter = thread::spawn(move || {
            let second = set.submit(yields("second", "")).expect("open");
            (set, second)
        });
        pause();
        canceller.cancel();
        let (mut set, second) = waiter.join().expect("no panic");
        let record = set.next_finished(FOREVER).expect("over at once");
        assert_eq!((record.id(), record.state()), (second, JobState::Cancelled));
        release.open();
    });
}

#[test]
fn a_set_inside_a_job_runs_its_members_on_the_only_worker() {
    watchdog(|| {
        for capacity in [0, 1, 64] {
            let delegator = sized(1, capacity);
            let submitter = delegator.submitter();
            let outer = Job::new("outer", move |ctx| {
                let mut set = submitter.job_set().with_context(ctx);
                set.submit_all((0..20).map(|n| yields("inner", [n])))?;
                let all: u8 = set.wait_all().iter().map(|record| record.payload().unwrap()[0]).sum();
                set.submit_all((0..20).map(|n| yields("inner", [n])))?;
                let mut next = 0;
                while let Some(record) = set.next_finished(Duration::MAX) {
                    next += record.payload().unwrap()[0];
                }
                set.submit_all([fails("bad", "no"), yields("good", "")])?;
                let good = set.first_ok().map_err(|_| "nothing good")?;
                let mut set = submitter.job_set().max_in_flight(3);
                for n in 0..20 {
                    set.submit(yields("inner", [n]))?;
                }
                let limited = set.wait_all().len() as u8;
                let mapped = submitter.job_set().map("inner", 0..200, |_, _| Ok(Vec::new())).count() as u8;
                Ok(vec![all, next, good.name().len() as u8, limited, mapped])
            });
            let seen = delegator.submit(outer).expect("room").join().expect("completed");
            assert_eq!(seen, [190, 190, 4, 20, 200], "{capacity} places");
        }
    });
}

#[test]
fn a_map_gives_records_in_the_order_of_the_items_or_as_they_finish() {
    watchdog(|| {
        let delegator = sized(3, 16);
        let first_waits = Gate::new();
        let opened = first_waits.clone();
        let records = delegator.job_set().map("map", 0..300_u32, move |_, n| {
            match n {
                0 => opened.wait(),
                40 => opened.open(),
                _ => {}
            }
            Ok(n.to_le_bytes().to_vec())
        });
        let seen = records.map(|record| record.unwrap().payload().unwrap().to_vec());
        assert!(seen.eq((0..300_u32).map(|n| n.to_le_bytes().to_vec())));

        let release = Gate::new();
        let held = release.clone();
        let mut records = delegator
            .job_set()
            .map("map", 0..10_u8, move |_, n| {
                if *n == 0 {
                    held.wait();
                }
                Ok(vec![*n])
            })
            .unordered();
        let mut seen: Vec<u8> = records.by_ref().take(9).map(|r| r.unwrap().payload().unwrap()[0]).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(1..10), "the slow one keeps nobody waiting");
        release.open();
        assert_eq!(records.next().expect("the slow one").expect("accepted").payload(), Some(&[0][..]));
        assert!(records.next().is_none());
    });
}

#[test]
fn a_map_may_stop_to_care_for_the_order() {
    watchdog(|| {
        let delegator = sized(2, 16);
        let first_waits = Gate::new();
        let opened = first_waits.clone();
        let mut records = delegator.job_set().map("map", 0..4_u8, move |_, n| {
            match n {
                0 => opened.wait(),
                // By then the one before has ended.
                2 => opened.open(),
                _ => {}
            }
            Ok(vec![*n])
        });
        let payload = |record: Option<Result<JobRecord, _>>| record.unwrap().unwrap().payload().unwrap()[0];
        assert_eq!(payload(records.next()), 0);
        let mut rest: Vec<u8> = records.unordered().map(|record| payload(Some(record))).collect();
        rest.sort_unstable();
        assert_eq!(rest, [1, 2, 3]);
    });
}

#[test]
fn the_debug_texts_of_a_set_and_a_map_show_their_limits() {
    let delegator = Delegator::manual();
    let mut set = delegator.job_set().max_in_flight(3);
    set.submit(yields("one", "")).expect("room");
    let text = format!("{set:?}");
    assert!(text.contains("len: 1, max_in_flight: Some(3)"), "{text}");
    let text = format!("{:?}", set.map("many", 0..1, |_, _| Ok(Vec::new())).unordered());
    assert!(text.contains("\"many\", window: 3, ordered: false"), "{text}");
}

/// Counts the items that exist.
struct Item(Arc<AtomicUsize>);

impl Drop for Item {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn a_map_of_very_many_items_has_few_of_them_about() {
    watchdog(|| {
        let builder = Delegator::builder().workers(2).retain(Retention::none());
        let delegator = builder.build().expect("a delegator");
        for ordered in [true, false] {
            let alive = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&alive);
            let items = (0..20_000).map(move |_| {
                assert!(counted.fetch_add(1, Ordering::SeqCst) < 64);
                Item(Arc::clone(&counted))
            });
            let mut map = delegator.job_set().map("item", items, |_, _| Ok(Vec::new()));
            if !ordered {
                map = map.unordered();
            }
            assert_eq!(map.count(), 20_000);
            assert_eq!(alive.load(Ordering::SeqCst), 0);
        }
    });
}

#[test]
fn dropping_a_map_cancels_what_is_about() {
    watchdog(|| {
        let delegator = sized(1, 64);
        let runs = Counter::new();
        let counted = runs.clone();
        let mut records = delegator.job_set().map("endless", 0.., move |ctx, n: &u32| {
            counted.add();
            if *n > 0 {
                ctx.sleep(FOREVER)?;
            }
            Ok(Vec::new())
        });
        assert!(records.next().is_some());
        drop(records);
        delegator.wait_idle();
        assert!(runs.get() <= 2);
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn a_set_cancels_what_is_queued_before_what_runs() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 64));
        let (started, left) = (Gate::new(), Arc::new(Mutex::new(None)));
        let (start, seen, of) = (started.clone(), Arc::clone(&left), Arc::downgrade(&delegator));
        let mut set = delegator.job_set();
        let running = Job::new("runs", move |ctx: &Context| {
            let (seen, of) = (Arc::clone(&seen), of.clone());
            let watch = ctx.on_done(move || {
                let queued = of.upgrade().map(|delegator| delegator.stats().queued);
                *seen.lock().unwrap() = queued;
            });
            start.open();
            let end = ctx.sleep(FOREVER);
            drop(watch);
            end.map(|()| Vec::new())
        });
        set.submit(running).expect("open");
        started.wait();
        for _ in 0..5 {
            set.submit(yields("queued", "")).expect("open");
        }
        drop(set);
        assert_eq!(
            *left.lock().unwrap(),
            Some(0),
            "when the first is told to stop, no other is left to start"
        );
    });
}

#[test]
fn a_delegator_that_is_shut_down_refuses_new_members_and_resolves_the_old() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let started = Gate::new();
        let mut set = delegator.job_set();
        set.submit(obedient("runs", &started)).expect("open");
        set.submit(yields("queued", "")).expect("open");
        started.wait();
        delegator.shutdown(Shutdown::cancel());
        let refused = set.submit(yields("late", "")).expect_err("shut down");
        assert_eq!(refused.kind(), SubmitErrorKind::ShutDown);
        let refused = set.submit_all([yields("late", ""), yields("later", "")]).expect_err("shut down");
        assert_eq!((refused.accepted.len(), refused.rest.len()), (0, 2));
        let states: Vec<_> = set.wait_all().iter().map(JobRecord::state).collect();
        assert_eq!(states, [JobState::Cancelled; 2]);

        let mut records = delegator.job_set().map("late", 0..100, |_, _| Ok(Vec::new()));
        assert_eq!(
            records.next().expect("said once").expect_err("shut down").kind(),
            SubmitErrorKind::ShutDown
        );
        assert!(records.next().is_none());
    });
}

#[test]
fn members_leave_nothing_behind_in_a_context_that_lives_on() {
    watchdog(|| {
        let delegator = sized(2, 64);
        let (ctx, canceller) = Context::background().with_cancel();
        let (flag, dropped) = DropFlag::new();
        let mut set = delegator.job_set().with_context(&ctx);
        set.submit(keeps("kept", flag)).expect("open");
        set.submit(yields("own end", "").with_timeout(FOREVER)).expect("open");
        assert_eq!(set.wait_all().len(), 2);
        assert!(dropped.is_open());
        drop(set);
        canceller.cancel();
        assert_eq!(delegator.stats().completed, 2);
    });
}

#[test]
fn many_finish_while_many_are_submitted_and_none_is_lost() {
    watchdog(|| {
        let delegator = Arc::new(sized(3, 32));
        let threads = [(); 3].map(|()| {
            let delegator = Arc::clone(&delegator);
            thread::spawn(move || {
                let mut set = delegator.job_set();
                let (mut submitted, mut seen) = (0, 0);
                for round in 0..3000_u32 {
                    set.submit(yields("job", "")).expect("open");
                    submitted += 1;
                    if round % 3 == 0 {
                        seen += usize::from(set.next_finished(Duration::MAX).is_some());
                    }
                    if round % 500 == 0 {
                        seen += set.wait_all().len();
                    }
                }
                seen += set.wait_all().len();
                assert_eq!(seen, submitted);
            })
        });
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn an_error_of_the_function_is_a_record_like_any_other() -> Result<(), Error> {
    let delegator = sized(2, 8);
    let records = delegator
        .job_set()
        .map("half", 0..4_u8, |_, n| if n % 2 == 0 { Ok(vec![*n]) } else { Err("odd".into()) });
    let states = records.map(|record| Ok(record?.state())).collect::<Result<Vec<_>, Error>>()?;
    let (good, bad) = (JobState::Completed, JobState::Failed);
    assert_eq!(states, [good, bad, good, bad]);
    Ok(())
}
