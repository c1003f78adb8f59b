//! Who makes a running job one to be looked after, and the look. Whatever the order, somebody has set the alarm.

use std::sync::Mutex;
use std::time::Duration;

use loom::thread::spawn;

use super::{Rig, explore};
use crate::alarm::SETS;
use crate::clock::Tick;
use crate::context::Scope;
use crate::sync::Arc;
use crate::{Context, Job};

#[test]
fn a_job_starts_while_the_delegator_looks() {
    explore(3, || {
        let rig = Rig::new(1, 1);
        let (looking, looks) = (rig.engine.clone(), Arc::new(Mutex::new(None)));
        let (engine, look) = (rig.engine.clone(), Arc::clone(&looks));
        let job = Job::new("job", move |_| {
            let look: loom::thread::JoinHandle<()> = look.lock().unwrap().take().expect("spawned before");
            look.join().unwrap();
            assert!(engine.alarm.next() != Tick::NEVER, "nobody looks after it");
            Ok(Vec::new())
        });
        let handle = rig.accepted(job.with_timeout(Duration::from_secs(60)));
        rig.close();
        *looks.lock().unwrap() = Some(spawn(move || {
            looking.alarm.clear();
            looking.look_around(Tick::now());
        }));
        rig.worker(0).join().unwrap();
        assert!(handle.is_finished());
    });
}

#[test]
fn a_job_starts_while_what_it_is_below_is_cancelled() {
    explore(4, || {
        SETS.set(0);
        let (mut ctx, canceller) = Context::background().with_cancel();
        let cancel = spawn(move || canceller.cancel());
        let scope = Scope::new(ctx.take_scope(), None);
        let noticed = Scope::employ(&scope);
        cancel.join().unwrap();
        assert!(noticed || SETS.get() > 0, "nobody looks after it");
    });
}

#[test]
fn a_second_job_starts_below_the_same_context() {
    explore(3, || {
        SETS.set(0);
        let (ctx, canceller) = Context::background().with_cancel();
        let cancel = spawn(move || canceller.cancel());
        let (one, other) = (ctx.with_cancel().0, ctx);
        let noticed = [one, other].map(|mut ctx| Scope::employ(&Scope::new(ctx.take_scope(), None)));
        cancel.join().unwrap();
        assert!(noticed[0] || noticed[1] || SETS.get() > 0, "nobody looks after them");
    });
}
