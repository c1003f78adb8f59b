//! What lives for long (a context, a running job, a registry) remembers nothing of those who came and went.
//!
//! The only test of its file, because it looks at the memory of the whole process.

#![cfg(target_os = "linux")]

mod common;

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use common::{FOREVER, delegator, fired, occupy, wait_fired, yields};
use crossbeam_channel::bounded;
use workpath::{Context, Delegator, Job, Retention};

/// The address space and the resident memory of this process in bytes.
fn memory() -> (u64, u64) {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("the memory of this process");
    let mut fields = statm.split(' ').map(|field| field.parse::<u64>().expect("a number of pages") * 4096);
    (fields.next().expect("the first field"), fields.next().expect("the second field"))
}

/// Runs a batch once to warm up and then three times more, and fails when the middle one of the three took more memory than
/// allowed. What stays behind takes it every time; what takes memory for another reason does so once.
#[track_caller]
fn assert_steady(what: &str, allowed: u64, mut batch: impl FnMut()) {
    batch();
    let mut grown = [(); 3].map(|()| {
        let (_, before) = memory();
        batch();
        memory().1.saturating_sub(before)
    });
    grown.sort_unstable();
    assert!(grown[1] < allowed, "{what} leave {grown:?} bytes behind");
}

/// [`assert_steady`] for what takes no time. Any entry that stays behind takes more than 20 bytes.
#[track_caller]
fn assert_each_steady(what: &str, mut once: impl FnMut()) {
    const TIMES: u32 = 6_000;
    assert_steady(what, 20 * u64::from(TIMES), || (0..TIMES).for_each(|_| once()));
}

#[test]
fn whatever_has_come_and_gone_leaves_nothing_behind() {
    // A sanitizer reserves terabytes and keeps what is freed: its memory says nothing.
    if memory().0 > 1 << 40 {
        return;
    }
    let (root, _canceller) = Context::background().with_cancel();
    let dated = root.with_timeout(FOREVER);

    assert_each_steady("stopped functions", || {
        assert!(root.on_done(|| ()).stop());
        assert!(dated.with_value("key", 1_u8).on_done(|| ()).stop());
    });
    assert_each_steady("delegators", || drop(Delegator::manual()));
    assert_each_steady("cancelled children", || {
        let (child, cancel) = dated.with_cancel();
        let done = child.done();
        cancel.cancel();
        assert!(fired(&done));
    });
    assert_each_steady("receivers of one context", || drop((root.done(), dated.done())));

    let due = |parent: &Context| parent.with_timeout(Duration::from_micros(1)).done();
    assert_steady("receivers of deadlines that have passed", 20 * 8_000, || {
        for _ in 0..80 {
            let receivers: Vec<_> = (0..50).flat_map(|_| [due(&root), due(&Context::background())]).collect();
            receivers.iter().for_each(wait_fired);
        }
    });

    let (ask, asked) = bounded::<()>(0);
    let (answer, answers) = bounded::<()>(0);
    let echo = thread::spawn(move || asked.iter().try_for_each(|()| answer.send(())));
    assert_each_steady("ended receives", || {
        ask.send(()).expect("the echo");
        dated.recv(&answers).expect("the answer");
    });
    drop((ask, answers));
    let _ = echo.join();

    assert_sleeps_steady(&root);
    assert_jobs_steady(&dated);
    assert_registry_steady();
}

/// A sleep takes its time, so many threads sleep at once, the same ones in all batches.
fn assert_sleeps_steady(ctx: &Context) {
    const THREADS: u32 = 16;
    const SLEEPS: u32 = 500;
    let barrier = Barrier::new(THREADS as usize + 1);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..4 {
                    barrier.wait();
                    for _ in 0..SLEEPS {
                        ctx.sleep(Duration::from_nanos(1)).expect("nothing disturbs it");
                    }
                    barrier.wait();
                }
            });
        }
        assert_steady("ended sleeps", 20 * u64::from(THREADS * SLEEPS), || {
            barrier.wait();
            barrier.wait();
        });
    });
}

fn assert_jobs_steady(ctx: &Context) {
    let delegator = delegator(1);
    assert_each_steady("finished jobs", || {
        let handle = delegator.submit(yields("job", Vec::new()).with_context(ctx)).expect("accepted");
        let done = handle.done();
        handle.wait();
        wait_fired(&done);
    });
    assert_each_steady("finished jobs that listened", || {
        let job = Job::new("listens", |ctx| {
            let _detached = ctx.on_done(|| ());
            drop(ctx.done());
            Ok(Vec::new())
        });
        delegator.submit(job.with_context(ctx)).expect("accepted").wait();
    });

    let busy = occupy(&delegator);
    let queued = delegator.submit(yields("queued", Vec::new()).with_context(ctx)).expect("accepted");
    // Long enough to get past the spinning, and many, since an entry is but a few bytes.
    assert_steady("waits that gave up", 8 * 2_000, || {
        for _ in 0..1_000 {
            assert!(busy.handle.wait_timeout(Duration::from_micros(100)).is_none());
            assert!(queued.wait_timeout(Duration::from_micros(100)).is_none());
        }
    });
    assert_each_steady("receivers of jobs", || drop((busy.handle.done(), queued.done())));
}

fn assert_registry_steady() {
    let delegator = Delegator::builder().workers(1).retain(Retention::last(10)).build().expect("a delegator");
    let run = || delegator.submit(yields("job", Vec::new())).expect("accepted").wait().id();
    assert_each_steady("records that were looked up and evicted", || {
        let id = run();
        assert!(delegator.registry().get(id).is_some());
    });
    let kept = run();
    assert_each_steady("records that were removed", || {
        let id = run();
        assert!(delegator.registry().remove(id).is_some());
    });
    assert!(delegator.registry().get(kept).is_some());
    assert_each_steady("records that were cleared", || {
        let id = run();
        assert!(delegator.registry().get(id).is_some());
        delegator.registry().clear();
    });
}
