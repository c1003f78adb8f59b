//! What a context that lives for ever remembers of those who listened to it for a while: nothing.
//!
//! The only test of its file, because it looks at the memory of the whole process.

#![cfg(target_os = "linux")]

mod common;

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use common::{FOREVER, delegator, fired, wait_fired, yields};
use crossbeam_channel::bounded;
use workpath::{Context, Job};

/// The address space and the resident memory of this process in bytes.
fn memory() -> (u64, u64) {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("the memory of this process");
    let mut fields = statm.split(' ').map(|field| field.parse::<u64>().expect("a number of pages") * 4096);
    (fields.next().expect("the first field"), fields.next().expect("the second field"))
}

fn resident() -> u64 {
    memory().1
}

/// By how much the memory grew in the best of three batches of so many rounds, after a few to warm up. What stays behind
/// shows in each of them; what else may take memory does not.
fn growth(rounds: u32, mut round: impl FnMut()) -> u64 {
    (0..rounds / 10).for_each(|_| round());
    let batches = (0..3).map(|_| {
        let before = resident();
        (0..rounds).for_each(|_| round());
        resident().saturating_sub(before)
    });
    batches.min().expect("three batches")
}

const ROUNDS: u32 = 15_000;

/// One entry that stays behind takes well over 20 bytes.
const ALLOWED: u64 = 20 * ROUNDS as u64;

#[test]
fn listeners_that_have_gone_leave_nothing_behind_in_a_context_that_lives_on() {
    // A sanitizer reserves terabytes and keeps what is freed: its memory says nothing.
    if memory().0 > 1 << 40 {
        return;
    }
    let (root, _canceller) = Context::background().with_cancel();
    let dated = root.with_timeout(FOREVER);

    let grown = growth(ROUNDS, || {
        assert!(root.on_done(|| ()).stop());
        assert!(dated.with_value("key", 1_u8).on_done(|| ()).stop());
    });
    assert!(grown < ALLOWED, "stopped callbacks: {grown} bytes");

    let grown = growth(ROUNDS, || {
        let (child, cancel) = dated.with_cancel();
        let done = child.done();
        cancel.cancel();
        assert!(fired(&done));
    });
    assert!(grown < ALLOWED, "cancelled children: {grown} bytes");

    let grown = growth(ROUNDS, || drop((root.done(), dated.done())));
    assert!(grown < ALLOWED, "receivers of one context: {grown} bytes");

    let grown = growth(ROUNDS / 100, || {
        let due = |parent: &Context| parent.with_timeout(Duration::from_micros(1)).done();
        let receivers: Vec<_> =
            (0..50).flat_map(|_| [due(&root.with_value("key", 1_u8)), due(&Context::background())]).collect();
        receivers.iter().for_each(wait_fired);
    });
    assert!(grown < ALLOWED, "receivers of deadlines that have passed: {grown} bytes");

    let (ask, asked) = bounded::<()>(0);
    let (answer, answers) = bounded::<()>(0);
    let echo = thread::spawn(move || asked.iter().try_for_each(|()| answer.send(())));
    let grown = growth(ROUNDS, || {
        ask.send(()).expect("the echo");
        dated.recv(&answers).expect("the answer");
    });
    drop(ask);
    drop(answers);
    let _ = echo.join();
    assert!(grown < ALLOWED, "ended receives: {grown} bytes");

    let delegator = delegator(1);
    let grown = growth(ROUNDS, || {
        let job = yields("job", Vec::new()).with_context(&dated);
        let handle = delegator.submit(job).expect("accepted");
        let done = handle.done();
        drop(handle.wait());
        wait_fired(&done);
    });
    assert!(grown < ALLOWED, "finished jobs: {grown} bytes");

    let grown = growth(ROUNDS, || {
        let job = Job::new("listens", |ctx| {
            let _detached = ctx.on_done(|| ());
            drop(ctx.done());
            Ok(Vec::new())
        });
        delegator.submit(job.with_context(&dated)).expect("accepted").wait();
    });
    assert!(grown < ALLOWED, "finished jobs that listened: {grown} bytes");

    let grown = growth_of_sleeps(&root);
    assert!(grown < ALLOWED, "ended sleeps: {grown} bytes");
}

/// As `growth`, but on threads that live through all batches, since a sleep takes its time.
fn growth_of_sleeps(ctx: &Context) -> u64 {
    const THREADS: u32 = 16;
    let barrier = Barrier::new(THREADS as usize + 1);
    let batch = || {
        barrier.wait();
        barrier.wait();
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..4 {
                    barrier.wait();
                    for _ in 0..ROUNDS / THREADS {
                        ctx.sleep(Duration::from_nanos(1)).expect("nothing disturbs it");
                    }
                    barrier.wait();
                }
            });
        }
        batch();
        let batches = (0..3).map(|_| {
            let before = resident();
            batch();
            resident().saturating_sub(before)
        });
        batches.min().expect("three batches")
    })
}
