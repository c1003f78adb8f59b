//! Bytes per queued job and per retained record, without closure and payload: the closure here captures nothing and the
//! payload is empty.
//!
//! Prints three numbers: heap bytes per queued job, heap bytes per place in the queue, heap bytes per retained record.

use peers::alloc::{Counting, in_use};
use workpath::{Delegator, Job, Retention};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const JOBS: usize = 100_000;

fn main() {
    // Whatever the process keeps once and for all is not a job's.
    Delegator::builder().workers(1).build().expect("the system gives a few threads").wait_idle();

    let base = in_use();
    let plain = Delegator::builder().workers(1).queue_capacity(JOBS).retain(Retention::none());
    let plain = plain.build().expect("the system gives a few threads");
    let queue = in_use() - base;
    drop(plain);

    let base = in_use();
    let builder = Delegator::builder().workers(1).queue_capacity(JOBS).retain(Retention::last(JOBS));
    let delegator = builder.build().expect("the system gives a few threads");
    let (open, gate) = crossbeam_channel::bounded::<()>(0);
    let (ready, started) = crossbeam_channel::bounded::<()>(1);
    let first = delegator.submit(Job::new("gate", move |_| {
        ready.send(()).map_err(|_| "nobody waits for the gate")?;
        // Ends with an error when the other side is dropped, which opens the gate.
        let _ = gate.recv();
        Ok(Vec::new())
    }));
    let first = first.expect("the delegator runs");
    started.recv().expect("the gate starts");

    let built = in_use();
    for _ in 0..JOBS {
        drop(delegator.submit(Job::new("empty", |_| Ok(Vec::new()))).expect("the delegator runs"));
    }
    let queued = in_use();
    drop(open);
    drop(first.wait());
    delegator.wait_idle();
    let retained = in_use();
    assert_eq!(delegator.registry().len(), JOBS);

    let each = |bytes: u64| bytes as f64 / JOBS as f64;
    println!("{:.1} {:.1} {:.1}", each(queued - built), each(queue), each(retained - base - queue));
}
