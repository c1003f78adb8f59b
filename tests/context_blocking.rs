//! Blocking with a context: `sleep`, `recv` and `done` in a `select!`, each cut short by a cancel or a deadline.

mod common;

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use common::{BRIEF, FOREVER, PATIENCE, fired, wait_fired, watchdog};
use crossbeam_channel::{Receiver, bounded, never, select, unbounded};
use workpath::{Canceller, Context, Error, ErrorKind};

/// A way to block on a context for as long as nothing ends it.
type Block = fn(&Context) -> Result<(), Error>;

/// Every blocking call, for tests of what ends them all alike.
const BLOCKING: [(&str, Block); 3] = [
    ("sleep", |ctx| ctx.sleep(FOREVER)),
    ("sleep without limit", |ctx| ctx.sleep(Duration::MAX)),
    ("recv", |ctx| ctx.recv(&never::<()>())),
];

/// Runs `body` on a thread and returns what it said once `trigger` has run in the middle of it.
///
/// Whether the thread is already asleep or not when the trigger comes, the outcome must be the same; the pause makes
/// "asleep" likely.
fn interrupted<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static, trigger: impl FnOnce()) -> T {
    let start = Arc::new(Barrier::new(2));
    let thread = {
        let start = Arc::clone(&start);
        thread::spawn(move || {
            start.wait();
            body()
        })
    };
    start.wait();
    thread::sleep(BRIEF);
    trigger();
    thread.join().expect("a call that comes back")
}

fn text(error: &Error) -> Option<String> {
    error.get_ref().map(ToString::to_string)
}

#[test]
fn a_sleep_that_nothing_disturbs_lasts_as_long_as_asked() {
    let (cancellable, _keep) = Context::background().with_cancel();
    for ctx in [Context::background(), cancellable.clone(), cancellable.with_timeout(FOREVER)] {
        for wanted in [Duration::ZERO, Duration::from_nanos(999_999), BRIEF] {
            let start = Instant::now();
            assert!(ctx.sleep(wanted).is_ok());
            assert!(start.elapsed() >= wanted);
        }
    }
}

#[test]
fn whatever_blocks_on_a_done_context_returns_at_once_with_its_error() {
    watchdog(|| {
        let (cancelled, cancel) = Context::background().with_cancel();
        cancel.cancel_with("why");
        let timed_out = Context::background().with_timeout(Duration::ZERO);
        for (name, block) in BLOCKING {
            let error = block(&cancelled).expect_err(name);
            assert_eq!(
                (error.kind(), text(&error).as_deref()),
                (ErrorKind::Cancelled, Some("why")),
                "{name}"
            );
            let error = block(&timed_out).expect_err(name);
            assert_eq!((error.kind(), text(&error)), (ErrorKind::DeadlineExceeded, None), "{name}");
        }
        assert!(cancelled.sleep(Duration::ZERO).is_err_and(|error| error.is_cancelled()));
        assert!(timed_out.sleep(Duration::ZERO).is_err_and(|error| error.is_timeout()));
    });
}

#[test]
fn a_cancel_interrupts_whatever_blocks() {
    for (name, block) in BLOCKING {
        let (ctx, cancel) = Context::background().with_cancel();
        let error = watchdog(move || interrupted(move || block(&ctx), || cancel.cancel_with("stop")))
            .expect_err("an interrupted call");
        assert_eq!((error.kind(), text(&error).as_deref()), (ErrorKind::Cancelled, Some("stop")), "{name}");
    }
}

#[test]
fn a_cancel_of_a_grandparent_interrupts_whatever_blocks_though_the_parent_is_gone() {
    for (name, block) in BLOCKING {
        let (root, cancel) = Context::background().with_cancel();
        let leaf = root.with_cancel().0.with_value("key", 1_u8).with_timeout(FOREVER);
        drop(root);
        let error = watchdog(move || interrupted(move || block(&leaf), || cancel.cancel_with("stop")))
            .expect_err("an interrupted call");
        assert_eq!((error.kind(), text(&error).as_deref()), (ErrorKind::Cancelled, Some("stop")), "{name}");
    }
}

#[test]
fn a_deadline_interrupts_whatever_blocks_and_not_before_it_has_come() {
    for (name, block) in BLOCKING {
        for below in [false, true] {
            let error = watchdog(move || {
                let timed = Context::background().with_timeout(BRIEF);
                let deadline = timed.deadline().expect("a deadline");
                let ctx = if below { timed.with_cancel().0.with_timeout(FOREVER) } else { timed };
                let error = block(&ctx).expect_err("an interrupted call");
                assert!(Instant::now() >= deadline);
                assert!(ctx.is_done());
                error
            });
            assert_eq!((error.kind(), text(&error)), (ErrorKind::DeadlineExceeded, None), "{name}");
        }
    }
}

#[test]
fn a_sleep_that_would_outlast_the_deadline_by_little_still_fails() {
    let ctx = Context::background().with_timeout(BRIEF);
    let error = watchdog(move || ctx.sleep(BRIEF * 4)).expect_err("the deadline comes first");
    assert!(error.is_timeout());
}

#[test]
fn a_sleep_that_ends_before_the_deadline_is_fine() {
    let ctx = Context::background().with_timeout(PATIENCE * 2);
    assert!(ctx.sleep(BRIEF).is_ok());
    assert!(!ctx.is_done());
}

#[test]
fn recv_takes_a_message_that_is_there() {
    let (send, receive) = bounded(2);
    send.send("first").expect("room");
    send.send("second").expect("room");
    let (cancellable, _keep) = Context::background().with_cancel();
    assert_eq!(Context::background().recv(&receive).ok(), Some("first"));
    assert_eq!(cancellable.with_timeout(FOREVER).recv(&receive).ok(), Some("second"));
}

#[test]
fn recv_waits_for_a_message_that_comes_later() {
    let (cancellable, _keep) = Context::background().with_cancel();
    for ctx in [Context::background(), cancellable.clone(), cancellable.with_timeout(FOREVER)] {
        let (send, receive) = bounded(1);
        let got =
            watchdog(move || interrupted(move || ctx.recv(&receive), || send.send(7).expect("a receiver")));
        assert_eq!(got.ok(), Some(7));
    }
}

#[test]
fn recv_reports_a_sender_that_is_gone_as_a_plain_failure() {
    for sent_before in [false, true] {
        let (send, receive) = bounded::<u8>(1);
        let (ctx, _keep) = Context::background().with_cancel();
        let error = if sent_before {
            drop(send);
            ctx.recv(&receive)
        } else {
            watchdog(move || interrupted(move || ctx.recv(&receive), || drop(send)))
        }
        .expect_err("no sender is left");
        assert_eq!(error.kind(), ErrorKind::Operation);
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn recv_delivers_what_was_sent_before_the_sender_went() {
    let (send, receive) = unbounded();
    send.send(1).expect("a receiver");
    send.send(2).expect("a receiver");
    drop(send);
    let ctx = Context::background().with_timeout(FOREVER);
    assert_eq!(ctx.recv(&receive).ok(), Some(1));
    assert_eq!(ctx.recv(&receive).ok(), Some(2));
    assert!(ctx.recv(&receive).is_err());
}

#[test]
fn recv_that_was_woken_by_a_message_hands_it_over_though_the_context_ends_right_after() {
    watchdog(|| {
        for round in 0..20 {
            let (send, receive) = bounded(1);
            let (ctx, cancel) = Context::background().with_cancel();
            let ctx = if round % 2 == 0 { ctx } else { ctx.with_timeout(FOREVER) };
            let left = receive.clone();
            let received = interrupted(
                move || ctx.recv(&receive),
                move || {
                    send.send(round).expect("room");
                    cancel.cancel();
                },
            );
            match received {
                Ok(got) => assert_eq!(got, round),
                Err(_) => assert_eq!(left.try_recv(), Ok(round), "the message is still there"),
            }
        }
    });
}

#[test]
fn recv_loses_no_message_to_a_cancel() {
    watchdog(|| {
        for round in 0..200 {
            let (send, receive) = bounded(1);
            let (ctx, cancel) = Context::background().with_cancel();
            let start = Arc::new(Barrier::new(3));
            let sender = {
                let (start, receive) = (Arc::clone(&start), receive.clone());
                thread::spawn(move || {
                    start.wait();
                    send.send(round).expect("room");
                    drop(receive);
                })
            };
            let canceller = {
                let start = Arc::clone(&start);
                thread::spawn(move || {
                    start.wait();
                    cancel.cancel();
                })
            };
            start.wait();
            let received = ctx.recv(&receive);
            sender.join().expect("sent");
            canceller.join().expect("cancelled");
            match received {
                Ok(got) => assert_eq!(got, round),
                Err(error) => {
                    assert!(error.is_cancelled());
                    assert_eq!(receive.try_recv(), Ok(round), "the message is still there");
                }
            }
        }
    });
}

#[test]
fn done_never_delivers_and_wakes_a_blocking_recv() {
    let (ctx, cancel) = Context::background().with_cancel();
    let done = ctx.done();
    assert_eq!(done.len(), 0);
    assert!(!fired(&done));
    watchdog(move || interrupted(move || wait_fired(&done), || cancel.cancel()));
}

#[test]
fn select_takes_the_work_while_the_context_lives_and_done_when_it_has_ended() {
    watchdog(|| {
        let (ctx, cancel) = Context::background().with_cancel();
        let (send, work) = unbounded();
        let done = ctx.done();
        for n in 0..10 {
            send.send(n).expect("a receiver");
            select! {
                recv(done) -> _ => panic!("not done yet"),
                recv(work) -> got => assert_eq!(got, Ok(n)),
            }
        }
        cancel.cancel();
        select! {
            recv(done) -> end => assert!(end.is_err()),
            recv(work) -> _ => panic!("no work is left"),
        }
    });
}

#[test]
fn select_wakes_at_a_cancel_and_at_a_deadline() {
    fn idle_until_done(ctx: &Context, work: &Receiver<()>) -> Error {
        select! {
            recv(ctx.done()) -> _ => ctx.error().expect("done fires after the context is done"),
            recv(work) -> _ => panic!("there is no work"),
        }
    }
    let (ctx, cancel) = Context::background().with_cancel();
    let error = watchdog(move || interrupted(move || idle_until_done(&ctx, &never()), || cancel.cancel()));
    assert!(error.is_cancelled());
    let error = watchdog(move || {
        let ctx = Context::background().with_timeout(BRIEF);
        let deadline = ctx.deadline().expect("a deadline");
        let error = idle_until_done(&ctx, &never());
        assert!(Instant::now() >= deadline);
        error
    });
    assert!(error.is_timeout());
}

#[test]
fn every_receiver_of_one_context_fires_whenever_it_was_made() {
    let (ctx, cancel) = Context::background().with_cancel();
    let early: Vec<_> = (0..5).map(|_| ctx.done()).collect();
    let copies: Vec<_> = early.iter().map(Clone::clone).collect();
    drop(ctx.done());
    cancel.cancel();
    let late = ctx.done();
    assert!(early.iter().chain(&copies).chain([&late]).all(fired));
    assert!(fired(&late), "and stays so");
}

#[test]
fn a_receiver_does_not_fire_because_the_contexts_are_gone() {
    let (ctx, cancel) = Context::background().with_cancel();
    let own = ctx.done();
    let below = ctx.with_value("key", 1_u8).with_cancel().0.with_timeout(FOREVER).done();
    let dated = Context::background().with_timeout(FOREVER).done();
    drop(ctx);
    thread::sleep(BRIEF);
    assert!(!fired(&own));
    assert!(!fired(&below));
    assert!(!fired(&dated));
    cancel.cancel();
    assert!(fired(&own));
    assert!(fired(&below));
}

#[test]
fn a_listener_that_blocks_while_another_thread_cancels_always_wakes() {
    watchdog(|| {
        let rounds: Vec<(Context, Canceller)> =
            (0..300).map(|_| Context::background().with_cancel()).collect();
        for (index, (ctx, cancel)) in rounds.into_iter().enumerate() {
            let start = Arc::new(Barrier::new(2));
            let canceller = {
                let start = Arc::clone(&start);
                thread::spawn(move || {
                    start.wait();
                    cancel.cancel();
                })
            };
            start.wait();
            let (name, block) = BLOCKING[index % BLOCKING.len()];
            assert!(block(&ctx).is_err_and(|error| error.is_cancelled()), "{name}");
            canceller.join().expect("cancel comes back");
        }
    });
}

#[test]
fn threads_that_block_on_different_branches_all_wake_at_one_cancel() {
    watchdog(|| {
        let (root, cancel) = Context::background().with_cancel();
        let ready = Arc::new(Barrier::new(BLOCKING.len() * 4 + 1));
        let threads: Vec<_> = (0..BLOCKING.len() * 4)
            .map(|n| {
                let (_, block) = BLOCKING[n % BLOCKING.len()];
                let ctx = if n % 2 == 0 { root.clone() } else { root.with_cancel().0 };
                let ready = Arc::clone(&ready);
                thread::spawn(move || {
                    ready.wait();
                    block(&ctx)
                })
            })
            .collect();
        ready.wait();
        cancel.cancel();
        for thread in threads {
            assert!(thread.join().expect("woke").is_err_and(|error| error.is_cancelled()));
        }
    });
}
