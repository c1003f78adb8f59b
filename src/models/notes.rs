//! What an operation says of itself, on its way from the worker to the record: the worker that takes the job off its
//! stack, a context that speaks up meanwhile, and somebody who looks.

use std::sync::Mutex;

use loom::thread::spawn;

use super::{Rig, explore};
use crate::sync::Arc;
use crate::{Context, Event, Job, JobHandle};

fn text(handle: &JobHandle) -> Option<String> {
    handle.checkpoint().map(|checkpoint| checkpoint.text().to_owned())
}

#[test]
fn what_was_seen_once_is_seen_again() {
    explore(5, || {
        let rig = Rig::new(1, 1);
        let handle = rig.accepted(Job::new("job", |ctx| ctx.checkpoint("here").map(|()| Vec::new())));
        rig.close();
        let worker = rig.worker(0);
        let first = text(&handle);
        let second = text(&handle);
        assert!(first.is_none() || second.is_some(), "it went away");
        worker.join().unwrap();
        assert_eq!(text(&handle).as_deref(), Some("here"));
    });
}

#[test]
fn the_first_word_comes_while_the_operation_returns() {
    explore(3, || {
        let rig = Rig::new(1, 2);
        let events = rig.engine.events.subscribe(100);
        // Out of the model: who gets the context has it before the worker starts.
        let kept: Arc<Mutex<Option<Context>>> = Arc::default();
        let (gives, helper) = (Arc::clone(&kept), Arc::new(Mutex::new(None)));
        let spawned = Arc::clone(&helper);
        let job = Job::new("job", move |ctx| {
            let ctx = ctx.clone();
            *gives.lock().unwrap() = Some(ctx.clone());
            *spawned.lock().unwrap() = Some(spawn(move || ctx.checkpoint("late").unwrap()));
            Ok(Vec::new())
        });
        let handle = rig.accepted(job);
        let next = rig.accepted(Job::new("next", |_| Ok(Vec::new())));
        rig.close();
        let seen = {
            let worker = rig.worker(0);
            let seen = text(&handle);
            worker.join().unwrap();
            seen
        };
        let helper = helper.lock().unwrap().take().expect("it ran");
        let at_the_end = text(&handle);
        helper.join().unwrap();
        assert!(seen.is_none() || at_the_end.is_some(), "it went away");
        assert_eq!(text(&handle), at_the_end, "the record changed");
        assert_eq!(text(&next), None, "it went to another job");
        let told: Vec<_> = events.try_iter().collect();
        let end =
            told.iter().position(|event| matches!(event, Event::Finished(record) if record.name() == "job"));
        let after = &told[end.expect("it has ended")..];
        assert!(
            !after.iter().any(|event| matches!(event, Event::Checkpoint { .. })),
            "it was told after the end"
        );
    });
}
