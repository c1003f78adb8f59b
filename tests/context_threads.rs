//! What contexts cost in threads. The only test of its file, so that nothing else starts threads meanwhile.

#![cfg(target_os = "linux")]

mod common;

use common::{BRIEF, FOREVER, wait_fired};
use workpath::Context;

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("the list of this process's threads").count()
}

#[test]
fn deriving_starts_no_thread_and_all_deadlines_share_one() {
    let before = threads();

    let (root, cancel) = Context::background().with_cancel();
    let derived: Vec<_> = (0..1_000)
        .map(|n: u32| {
            root.with_value("n", n)
                .with_cancel()
                .0
                .with_timeout(FOREVER)
                .without_cancel()
                .with_timeout(FOREVER)
        })
        .collect();
    assert!(derived.iter().all(|ctx| !ctx.is_done()));
    let listening: Vec<_> = (0..100).map(|_| root.with_value("v", ()).done()).collect();
    let stopped = root.on_done(|| ());
    let (send, receive) = crossbeam_channel::bounded(1);
    send.send(()).expect("room");
    root.recv(&receive).expect("the message");
    root.sleep(BRIEF).expect("nothing disturbs the sleep");
    assert_eq!(threads(), before, "no deadline is listened to, so no thread is needed");
    assert!(stopped.stop());

    let due: Vec<_> = (0..1_000).map(|_| Context::background().with_timeout(BRIEF).done()).collect();
    let far: Vec<_> = derived.iter().map(Context::done).collect();
    assert!(threads() <= before + 1, "{} threads serve the deadlines", threads() - before);
    due.iter().for_each(wait_fired);
    assert!(threads() <= before + 1);
    cancel.cancel();
    listening.iter().for_each(wait_fired);
    drop(far);
}
