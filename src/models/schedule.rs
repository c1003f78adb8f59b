//! A scheduled job whose time comes while the delegator is shut down, or somebody cancels it: it ends once, by
//! whichever comes first, and nothing is left of it.

use std::time::Duration;

use loom::thread::spawn;

use super::{Rig, Watch, explore};
use crate::clock::Tick;
use crate::{JobState, Shutdown};

const SOON: Duration = Duration::from_secs(3600);

#[test]
fn due_against_a_drain() {
    explore(2, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let handle = rig.accepted(watch.job("job").with_delay(SOON));
        let worker = rig.worker(0);
        let delegator = {
            let rig = rig.clone();
            spawn(move || rig.engine.look_around(Tick::now().after(2 * SOON)))
        };
        let report = rig.shut_down(Shutdown::drain());
        delegator.join().unwrap();
        worker.join().unwrap();
        match handle.state() {
            JobState::Completed => assert_eq!((watch.runs.get(), report.unstarted.len()), (1, 0)),
            JobState::Cancelled => assert_eq!((watch.runs.get(), report.unstarted.len()), (0, 1)),
            other => panic!("{other} at the end"),
        }
        rig.check_accounts(1);
        drop(report);
        assert_eq!(watch.drops.get(), 1);
    });
}

#[test]
fn due_against_a_cancel() {
    explore(3, || {
        let (rig, watch) = (Rig::new(1, 1), Watch::default());
        let handle = rig.accepted(watch.job("job").with_delay(SOON));
        let delegator = {
            let rig = rig.clone();
            spawn(move || rig.engine.look_around(Tick::now().after(2 * SOON)))
        };
        assert!(handle.cancel(), "nobody has started it");
        delegator.join().unwrap();
        assert_eq!((handle.state(), watch.drops.get()), (JobState::Cancelled, 1));
        assert!(rig.engine.registry.wait_idle(Tick::NEVER, |_| panic!("it is idle")));
        assert_eq!(rig.engine.agenda.lock().len(), 0);
        rig.check_accounts(1);
    });
}
