//! The registry: finished jobs only, newest last, bounded by count, age and bytes.

mod common;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    BRIEF, DropFlag, FOREVER, Gate, PATIENCE, delegator, fails, gated, occupy, panics, watchdog, yields,
};
use workpath::{Context, Delegator, Error, Job, JobHandle, JobId, JobState, Retention};

fn retaining(retention: Retention) -> Delegator {
    Delegator::builder().workers(1).queue_capacity(64).retain(retention).build().expect("a delegator")
}

/// Runs a job with a payload of so many bytes to its end.
fn run(delegator: &Delegator, bytes: usize) -> JobHandle {
    let handle = delegator.submit(yields("job", vec![7; bytes])).expect("accepted");
    assert_eq!(handle.wait().payload().map(<[u8]>::len), Some(bytes));
    handle
}

/// The ids in the registry, after checking that all its methods agree on them.
fn ids(delegator: &Delegator) -> Vec<JobId> {
    let registry = delegator.registry();
    let ids: Vec<_> = registry.records().iter().map(|record| record.id()).collect();
    assert_eq!(registry.len(), ids.len());
    assert_eq!(registry.is_empty(), ids.is_empty());
    for id in &ids {
        assert_eq!(registry.get(*id).map(|record| record.id()), Some(*id));
    }
    ids
}

fn handle_ids(handles: &[JobHandle]) -> Vec<JobId> {
    handles.iter().map(JobHandle::id).collect()
}

#[test]
fn a_new_registry_is_empty() {
    let delegator = delegator(1);
    let registry = delegator.registry();
    assert_eq!(registry.len(), 0);
    assert!(registry.is_empty());
    assert!(registry.records().is_empty());
    registry.clear();
    assert!(registry.get(yields("job", *b"x").id()).is_none());
    assert!(registry.remove(yields("job", *b"x").id()).is_none());
}

#[test]
fn jobs_of_every_outcome_are_kept_newest_last() {
    let delegator = delegator(1);
    let (cancelled, canceller) = Context::background().with_cancel();
    canceller.cancel();
    let jobs = [
        (yields("one", *b"x"), JobState::Completed),
        (fails("two", "on purpose"), JobState::Failed),
        (panics("three", "on purpose"), JobState::Panicked),
        (yields("four", *b"x").with_context(&cancelled), JobState::Cancelled),
        (yields("five", *b"x").with_timeout(Duration::ZERO), JobState::TimedOut),
    ];
    let mut expected = Vec::new();
    for (count, (job, state)) in jobs.into_iter().enumerate() {
        let handle = delegator.submit(job).expect("accepted");
        assert_eq!(handle.wait().state(), state);
        let kept = delegator.registry().get(handle.id()).expect("kept");
        assert_eq!((kept.state(), kept.name()), (state, handle.name()));
        expected.push(handle.id());
        assert_eq!(delegator.registry().len(), count + 1);
    }
    assert_eq!(ids(&delegator), expected);
}

#[test]
fn a_job_that_has_not_finished_is_not_there() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let queued = delegator.submit(yields("queued", *b"x")).expect("accepted");
        assert!(delegator.registry().get(busy.handle.id()).is_none());
        assert!(delegator.registry().get(queued.id()).is_none());
        assert!(delegator.registry().remove(queued.id()).is_none());
        assert!(delegator.registry().is_empty());
        delegator.registry().clear();
        busy.release();
        assert_eq!(queued.wait().state(), JobState::Completed);
        assert_eq!(ids(&delegator), [busy.handle.id(), queued.id()]);
    });
}

#[test]
fn by_default_the_last_1024_are_kept() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(1).build().expect("a delegator");
        let handles: Vec<_> =
            (0..1_030).map(|_| delegator.submit(yields("job", *b"x")).expect("accepted")).collect();
        delegator.wait_idle();
        assert_eq!(ids(&delegator), handle_ids(&handles[6..]));
        assert!(delegator.registry().get(handles[5].id()).is_none());
    });
}

#[test]
fn no_retention_keeps_nothing_and_takes_nothing_from_a_handle() {
    let delegators = [retaining(Retention::none()), retaining(Retention::last(0))];
    for delegator in delegators {
        let handle = run(&delegator, 10);
        assert!(ids(&delegator).is_empty());
        assert!(delegator.registry().get(handle.id()).is_none());
        assert_eq!(handle.wait().payload(), Some(&[7; 10][..]));
        assert_eq!(handle.join().expect("a payload"), [7; 10]);
        assert_eq!(delegator.stats().completed, 1);
    }
}

#[test]
fn the_oldest_goes_when_the_count_is_reached() {
    let delegator = retaining(Retention::last(3));
    let mut handles = Vec::new();
    for _ in 0..10 {
        handles.push(run(&delegator, 1));
        let from = handles.len().saturating_sub(3);
        assert_eq!(ids(&delegator), handle_ids(&handles[from..]));
    }
    for handle in &handles[..7] {
        assert!(delegator.registry().get(handle.id()).is_none());
        assert!(delegator.registry().remove(handle.id()).is_none());
        assert_eq!(handle.wait().payload(), Some(&[7][..]), "the handle owns its record");
    }
}

#[test]
fn the_bound_holds_without_anybody_reading_in_between() {
    watchdog(|| {
        let delegator = retaining(Retention::last(5));
        let handles: Vec<_> =
            (0..500).map(|_| delegator.submit(yields("job", *b"x")).expect("accepted")).collect();
        delegator.wait_idle();
        assert_eq!(delegator.registry().len(), 5);
        assert_eq!(ids(&delegator), handle_ids(&handles[495..]));
        delegator.wait_idle();
    });
}

#[test]
fn a_removed_record_is_gone_and_makes_room() {
    let delegator = retaining(Retention::last(3));
    let (a, b, c) = (run(&delegator, 1), run(&delegator, 2), run(&delegator, 3));
    let removed = delegator.registry().remove(b.id()).expect("there");
    assert_eq!((removed.id(), removed.payload().map(<[u8]>::len)), (b.id(), Some(2)));
    assert!(delegator.registry().remove(b.id()).is_none());
    assert!(delegator.registry().get(b.id()).is_none());
    assert_eq!(ids(&delegator), [a.id(), c.id()]);
    let d = run(&delegator, 4);
    assert_eq!(ids(&delegator), [a.id(), c.id(), d.id()], "what was removed takes no place");
    let e = run(&delegator, 5);
    assert_eq!(ids(&delegator), [c.id(), d.id(), e.id()]);
    for gone in [&e, &c] {
        assert!(delegator.registry().remove(gone.id()).is_some());
    }
    assert_eq!(ids(&delegator), [d.id()]);
    assert_eq!(b.wait().payload().map(<[u8]>::len), Some(2), "the handle has it all the same");
}

#[test]
fn removing_in_every_order_keeps_the_rest_in_order() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        let delegator = retaining(Retention::last(4));
        let handles: Vec<_> = (0..6).map(|_| run(&delegator, 1)).collect();
        let mut left = handle_ids(&handles[2..]);
        assert_eq!(ids(&delegator), left);
        for which in order {
            let id = handles[2 + which].id();
            assert_eq!(delegator.registry().remove(id).map(|record| record.id()), Some(id));
            left.retain(|other| *other != id);
            assert_eq!(ids(&delegator), left);
        }
        let next = run(&delegator, 1);
        assert_eq!(ids(&delegator), [next.id()]);
    }
}

#[test]
fn a_lookup_finds_records_that_came_after_an_earlier_lookup() {
    let delegator = retaining(Retention::last(100));
    let mut handles = Vec::new();
    for _ in 0..150 {
        handles.push(run(&delegator, 1));
        let last = handles.last().expect("just pushed");
        assert!(delegator.registry().get(last.id()).is_some());
        let oldest_kept = handles.len().saturating_sub(100);
        assert!(delegator.registry().get(handles[oldest_kept].id()).is_some());
        if oldest_kept > 0 {
            assert!(delegator.registry().get(handles[oldest_kept - 1].id()).is_none());
        }
    }
}

#[test]
fn many_gaps_and_many_evictions_lose_no_record() {
    watchdog(|| {
        let delegator = retaining(Retention::last(300));
        let handles: Vec<_> = (0..300).map(|_| run(&delegator, 1)).collect();
        let (first, last) = (handles[0].id(), handles[299].id());
        // Everything between the first and the last goes, so that hardly anything but gaps is left.
        for handle in &handles[1..299] {
            assert!(delegator.registry().remove(handle.id()).is_some());
        }
        assert_eq!(ids(&delegator), [first, last]);
        let next: Vec<_> = (0..100).map(|_| run(&delegator, 1)).collect();
        let mut expected = vec![first, last];
        expected.extend(handle_ids(&next));
        assert_eq!(ids(&delegator), expected);
        assert!(delegator.registry().get(handles[150].id()).is_none());

        let small = retaining(Retention::last(10));
        let mut handles = Vec::new();
        for _ in 0..400 {
            handles.push(run(&small, 1));
            let kept = &handles[handles.len().saturating_sub(10)..];
            assert!(kept.iter().all(|handle| small.registry().get(handle.id()).is_some()));
        }
        assert_eq!(ids(&small), handle_ids(&handles[390..]));
    });
}

#[test]
fn clearing_empties_the_registry_and_later_jobs_are_kept_again() {
    let delegator = retaining(Retention::last(3).max_bytes(10));
    let before: Vec<_> = (0..3).map(|_| run(&delegator, 3)).collect();
    assert_eq!(ids(&delegator).len(), 3);
    delegator.registry().clear();
    // No look-up in between: the first one after the clear has to find what came later.
    let next = run(&delegator, 3);
    assert!(delegator.registry().get(next.id()).is_some());
    delegator.registry().clear();
    assert!(ids(&delegator).is_empty());
    assert!(before.iter().all(|handle| delegator.registry().get(handle.id()).is_none()));
    let after: Vec<_> = (0..3).map(|_| run(&delegator, 3)).collect();
    assert_eq!(ids(&delegator), handle_ids(&after), "neither count nor bytes remember what was cleared");
    assert!(before.iter().all(|handle| handle.wait().state() == JobState::Completed));
}

#[test]
fn payload_bytes_are_bounded_and_the_oldest_goes_first() {
    let delegator = retaining(Retention::last(100).max_bytes(100));
    let a = run(&delegator, 60);
    let b = run(&delegator, 40);
    assert_eq!(ids(&delegator), [a.id(), b.id()], "exactly full is not too much");
    let c = run(&delegator, 1);
    assert_eq!(ids(&delegator), [b.id(), c.id()]);
    let d = run(&delegator, 100);
    assert_eq!(ids(&delegator), [d.id()], "one may take all of the room");
    let e = run(&delegator, 0);
    assert_eq!(ids(&delegator), [d.id(), e.id()], "an empty payload takes none");
    assert_eq!(a.wait().payload().map(<[u8]>::len), Some(60), "the handle owns its record");
}

#[test]
fn a_payload_larger_than_the_bound_is_not_retained_and_evicts_nobody() {
    let delegator = retaining(Retention::last(100).max_bytes(100));
    let small = run(&delegator, 50);
    let large = run(&delegator, 101);
    assert_eq!(ids(&delegator), [small.id()]);
    assert!(delegator.registry().get(large.id()).is_none());
    assert_eq!(large.wait().payload().map(<[u8]>::len), Some(101), "the handle has it all the same");
    assert_eq!(large.join().expect("a payload").len(), 101);
}

#[test]
fn removing_gives_the_bytes_back() {
    let delegator = retaining(Retention::last(100).max_bytes(100));
    let a = run(&delegator, 60);
    assert!(delegator.registry().remove(a.id()).is_some());
    let b = run(&delegator, 60);
    let c = run(&delegator, 40);
    assert_eq!(ids(&delegator), [b.id(), c.id()]);
    let d = run(&delegator, 60);
    assert_eq!(ids(&delegator), [c.id(), d.id()], "evicting gives them back as well");
}

#[test]
fn jobs_without_payload_count_no_bytes() {
    let delegator = retaining(Retention::last(100).max_bytes(0));
    let failed = delegator.submit(fails("fails", "on purpose")).expect("accepted");
    failed.wait();
    let empty = run(&delegator, 0);
    let one_byte = run(&delegator, 1);
    assert_eq!(ids(&delegator), [failed.id(), empty.id()]);
    assert_eq!(one_byte.wait().payload(), Some(&[7][..]));
}

#[test]
fn the_bounds_hold_together_and_in_any_order_of_setting() {
    for retention in [
        Retention::last(2).max_bytes(100).max_age(FOREVER),
        Retention::last(2).max_age(FOREVER).max_bytes(100),
    ] {
        let delegator = retaining(retention);
        let a = run(&delegator, 10);
        let b = run(&delegator, 10);
        let c = run(&delegator, 10);
        assert_eq!(ids(&delegator), [b.id(), c.id()], "the count decides");
        let d = run(&delegator, 95);
        assert_eq!(ids(&delegator), [d.id()], "the bytes decide");
        assert!(delegator.registry().get(a.id()).is_none());
    }
}

#[test]
fn a_record_that_is_too_old_is_gone_for_every_kind_of_look() {
    type Look = fn(&Delegator, JobId) -> bool;
    let looks: [(&str, Look); 5] = [
        ("get", |delegator, id| delegator.registry().get(id).is_some()),
        ("remove", |delegator, id| delegator.registry().remove(id).is_some()),
        ("records", |delegator, _| !delegator.registry().records().is_empty()),
        ("len", |delegator, _| delegator.registry().len() == 1),
        ("is_empty", |delegator, _| !delegator.registry().is_empty()),
    ];
    for (name, look) in looks {
        let delegator = retaining(Retention::last(100).max_age(BRIEF));
        let handle = run(&delegator, 1);
        thread::sleep(BRIEF * 2);
        assert!(!look(&delegator, handle.id()), "{name}");
        assert_eq!(handle.wait().payload(), Some(&[7][..]), "the handle owns its record");
    }
}

#[test]
fn only_the_old_ones_go() {
    let age = Duration::from_millis(400);
    let delegator = retaining(Retention::last(100).max_age(age));
    // A machine that stands still may age the young one too; then there is nothing to see, and another try.
    let start = Instant::now();
    loop {
        let old = run(&delegator, 1);
        thread::sleep(age + Duration::from_millis(10));
        let before_young = Instant::now();
        let young = run(&delegator, 1);
        let kept = delegator.registry().get(young.id()).is_some();
        let listed = ids_of_young(&delegator, young.id());
        let in_time = before_young.elapsed() < age;
        assert!(delegator.registry().get(old.id()).is_none());
        if in_time {
            assert!(kept && listed, "younger than the limit");
            break;
        }
        assert!(start.elapsed() < PATIENCE, "never fast enough to look at a young record");
    }
}

#[test]
fn what_is_behind_a_removed_record_grows_old_too() {
    let age = Duration::from_secs(10);
    let delegator = Delegator::builder().retain(Retention::last(100).max_age(age)).manual().unwrap();
    let handles = [(); 3].map(|()| delegator.submit(yields("job", [])).unwrap());
    delegator.run_until_idle();
    assert!(delegator.registry().remove(handles[0].id()).is_some());
    delegator.advance(age - Duration::from_nanos(1));
    assert_eq!(delegator.registry().len(), 2);
    delegator.advance(Duration::from_nanos(1));
    assert!(delegator.registry().is_empty());
}

#[test]
fn the_memory_of_records_serves_another_delegator_as_its_own() {
    for jobs in [100, 120] {
        let first = Delegator::builder().retain(Retention::last(1)).manual().unwrap();
        (0..jobs).for_each(|_| drop(first.submit(yields("old", [])).unwrap().wait()));
        let second = Delegator::manual();
        let handles: Vec<_> = (0..40).map(|_| second.submit(yields("new", [])).unwrap()).collect();
        assert!(handles.iter().all(JobHandle::cancel));
        assert_eq!((second.stats().cancelled, second.registry().len()), (40, 40));
        assert_eq!((first.stats().cancelled, first.registry().len()), (0, 1));
    }
}

fn ids_of_young(delegator: &Delegator, id: JobId) -> bool {
    let records = delegator.registry().records();
    records.len() == 1 && records[0].id() == id
}

#[test]
fn an_age_without_end_keeps_and_an_age_of_zero_keeps_nothing() {
    let kept = retaining(Retention::last(10).max_age(Duration::MAX));
    let handle = run(&kept, 1);
    assert_eq!(ids(&kept), [handle.id()]);
    let lost = retaining(Retention::last(10).max_age(Duration::ZERO));
    let handle = run(&lost, 1);
    thread::sleep(Duration::from_millis(2));
    assert!(ids(&lost).is_empty());
    assert!(lost.registry().get(handle.id()).is_none());
    let everything = retaining(Retention::last(usize::MAX).max_bytes(usize::MAX).max_age(Duration::MAX));
    let handle = run(&everything, 1);
    assert_eq!(ids(&everything), [handle.id()]);
}

#[test]
fn an_evicted_running_or_foreign_id_is_unknown_and_never_hangs() {
    watchdog(|| {
        let (one, two) = (retaining(Retention::last(1)), delegator(1));
        let evicted = run(&one, 1);
        let kept = run(&one, 1);
        let foreign = run(&two, 1);
        assert!(one.registry().get(evicted.id()).is_none());
        assert!(one.registry().get(foreign.id()).is_none());
        assert!(one.registry().remove(foreign.id()).is_none());
        assert!(two.registry().get(kept.id()).is_none());
        assert_eq!(ids(&one), [kept.id()]);
        assert_eq!(ids(&two), [foreign.id()]);
    });
}

#[test]
fn running_jobs_are_not_evicted_by_finished_ones() {
    watchdog(|| {
        let delegator =
            Delegator::builder().workers(2).retain(Retention::last(1)).build().expect("a delegator");
        let (started, release) = (Gate::new(), Gate::new());
        let running = delegator.submit(gated("running", &started, &release)).expect("accepted");
        started.wait();
        for _ in 0..20 {
            delegator.submit(yields("quick", *b"x")).expect("accepted").wait();
        }
        assert_eq!(running.state(), JobState::Running);
        release.open();
        assert_eq!(running.wait().state(), JobState::Completed);
        assert_eq!(ids(&delegator), [running.id()]);
    });
}

#[test]
fn a_list_of_records_stays_as_it_was_taken() {
    let delegator = retaining(Retention::last(2));
    let handles: Vec<_> = (0..2).map(|_| run(&delegator, 4)).collect();
    let records = delegator.registry().records();
    for _ in 0..2 {
        let _evicts = run(&delegator, 1);
    }
    delegator.registry().clear();
    let listed: Vec<_> = records.iter().map(|record| record.id()).collect();
    assert_eq!(listed, handle_ids(&handles));
    assert!(records.iter().all(|record| record.payload() == Some(&[7; 4][..])));
}

#[test]
fn the_registry_can_be_read_after_a_shutdown() {
    let delegator = delegator(1);
    let handle = run(&delegator, 1);
    delegator.shutdown(workpath::Shutdown::drain());
    assert_eq!(ids(&delegator), [handle.id()]);
    assert!(delegator.registry().remove(handle.id()).is_some());
    assert!(delegator.registry().is_empty());
}

#[test]
fn a_job_may_read_the_registry_of_its_own_delegator() {
    watchdog(|| {
        let delegator = Arc::new(delegator(1));
        let first = run(&delegator, 3);
        let (pool, id) = (Arc::clone(&delegator), first.id());
        let reader = Job::new("reads", move |_| {
            let record = pool.registry().get(id).ok_or("unknown")?;
            assert_eq!(pool.registry().len(), 1);
            Ok(record.payload().ok_or("no payload")?.to_vec())
        });
        assert_eq!(delegator.submit(reader).expect("accepted").join().expect("a payload"), [7; 3]);
    });
}

#[test]
fn readers_see_whole_records_or_none_while_others_are_evicted() {
    watchdog(|| {
        let delegator =
            Delegator::builder().workers(2).retain(Retention::last(8)).build().expect("a delegator");
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        let records = delegator.registry().records();
                        assert!(records.len() <= 8);
                        for record in records {
                            assert_eq!(record.state(), JobState::Completed);
                            let payload = record.payload().expect("a payload");
                            assert_eq!(payload, record.name().as_bytes());
                            if let Some(again) = delegator.registry().get(record.id()) {
                                assert_eq!(again.payload(), record.payload());
                            }
                        }
                        thread::yield_now();
                    }
                });
            }
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    if let Some(record) = delegator.registry().records().first() {
                        let removed = delegator.registry().remove(record.id());
                        assert!(removed.is_none_or(|removed| removed.id() == record.id()));
                    }
                    thread::yield_now();
                }
            });
            for n in 0..500 {
                let name = format!("job {n}");
                let bytes = name.clone().into_bytes();
                let handle = delegator.submit(Job::new(name, move |_| Ok(bytes.clone()))).expect("accepted");
                if n % 50 == 0 {
                    assert_eq!(handle.wait().name(), format!("job {n}"));
                }
            }
            delegator.wait_idle();
            stop.store(true, Ordering::SeqCst);
        });
        assert!(delegator.registry().len() <= 8);
    });
}

/// An error that reads the registry it sits in when it is dropped.
struct ReadsInDrop {
    pool: Weak<Delegator>,
    dropped: DropFlag,
}

impl fmt::Debug for ReadsInDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dropped)
    }
}

impl fmt::Display for ReadsInDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("reads in its drop")
    }
}

impl std::error::Error for ReadsInDrop {}

impl Drop for ReadsInDrop {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            let _ = (pool.registry().len(), pool.registry().records(), pool.stats());
        }
    }
}

#[test]
fn a_record_too_old_is_freed_outside_the_lock_too() {
    watchdog(|| {
        let pool = Arc::new(retaining(Retention::last(10).max_age(BRIEF)));
        let (flag, dropped) = DropFlag::new();
        let cell = OnceLock::new();
        assert!(
            cell.set(std::sync::Mutex::new(Some(ReadsInDrop { pool: Arc::downgrade(&pool), dropped: flag })))
                .is_ok()
        );
        let job = Job::new("fails", move |_| {
            let error = cell.get().and_then(|slot| slot.lock().ok()?.take()).ok_or("run twice")?;
            Err(Error::new(error))
        });
        drop(pool.submit(job).expect("accepted").wait());
        thread::sleep(BRIEF * 2);
        assert!(pool.registry().is_empty());
        pool.wait_idle();
        assert!(dropped.wait_timeout(PATIENCE));
    });
}
