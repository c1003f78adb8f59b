//! What a job leaves to others when it is over: contexts that outlive it, and the end of its worker's thread.

mod common;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use common::{Gate, within};
use crossbeam_channel::unbounded;
use workpath::{Context, Delegator, Job, Shutdown};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn what_listens_to_a_context_that_outlives_its_job_goes_with_the_context() {
    within(PATIENCE, || {
        let delegator = Delegator::builder().workers(1).build().unwrap();
        let token = Arc::new(());
        for _ in 0..3 {
            let (escape, escaped) = unbounded::<Context>();
            let job = Job::new("lends its context", move |ctx| {
                escape.send(ctx.clone()).expect("somebody waits for it");
                Ok(Vec::new())
            });
            delegator.submit(job).unwrap().wait();
            let context = escaped.recv().unwrap();
            let held = Arc::clone(&token);
            let child = context.with_value("depth", 1);
            drop(child.on_done(move || drop(held)));
            let done = child.done();
            assert_eq!(Arc::strong_count(&token), 2, "still listening");
            assert!(done.try_recv().is_err_and(|error| error.is_empty()), "still connected");
            drop(child);
            drop(context);
            assert!(done.try_recv().is_err_and(|error| error.is_disconnected()), "disconnected");
            assert_eq!(Arc::strong_count(&token), 1, "nothing is left of it");
        }
    });
}

/// Blocks the end of the thread until the gate opens.
struct SlowToLeave(Gate);

impl Drop for SlowToLeave {
    fn drop(&mut self) {
        self.0.wait();
    }
}

thread_local! {
    static SLOW: RefCell<Option<SlowToLeave>> = const { RefCell::new(None) };
}

#[test]
fn a_limit_holds_though_a_thread_local_destructor_keeps_the_thread_of_a_worker() {
    within(PATIENCE, || {
        let gate = Gate::new();
        let delegator = Delegator::builder().workers(2).build().unwrap();
        let keeper = gate.clone();
        let job = Job::new("leaves a thread-local behind", move |_| {
            SLOW.set(Some(SlowToLeave(keeper.clone())));
            Ok(Vec::new())
        });
        delegator.submit(job).unwrap().wait();
        let report = delegator.shutdown(Shutdown::drain().within(Duration::from_millis(50)));
        assert!(report.stuck.is_empty(), "no job is: {report:?}");
        drop(delegator);
        gate.open();
    });
}
