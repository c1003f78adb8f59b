//! A tick that is due while the series is stopped or the delegator shut down: its job runs once or not at all, and
//! nothing is left of either.

use std::time::Duration;

use loom::thread::spawn;

use super::{Count, Rig, explore};
use crate::clock::Tick;
use crate::periodic::{self, Periodic};
use crate::{Every, Job, Shutdown};

const SOON: Duration = Duration::from_secs(3600);

fn series(rig: &Rig, runs: &Count, drops: &Count) -> Periodic {
    let (runs, captured) = (runs.clone(), drops.on_drop());
    let factory = move || {
        let (_, runs) = (&captured, runs.clone());
        Job::new("job", move |_| {
            runs.add();
            Ok(Vec::new())
        })
    };
    periodic::begin(&rig.engine, Every::fixed_rate(SOON), factory).expect("open")
}

#[test]
fn due_against_a_stop() {
    explore(2, || {
        let (rig, runs, drops) = (Rig::new(1, 1), Count::default(), Count::default());
        let series = series(&rig, &runs, &drops);
        rig.engine.look_around(Tick::now().after(SOON));
        let worker = rig.worker(0);
        assert!(series.stop());
        rig.close();
        worker.join().unwrap();
        assert!(runs.get() <= 1);
        assert_eq!((drops.get(), series.submitted()), (1, runs.get() as u64));
        assert_eq!(rig.engine.agenda.lock().next_due(Tick::now(), None), Tick::NEVER);
        rig.check_accounts(runs.get() as u64);
    });
}

#[test]
fn due_against_a_shutdown() {
    explore(2, || {
        let (rig, runs, drops) = (Rig::new(1, 1), Count::default(), Count::default());
        let series = series(&rig, &runs, &drops);
        let worker = rig.worker(0);
        let delegator = {
            let rig = rig.clone();
            spawn(move || rig.engine.look_around(Tick::now().after(SOON)))
        };
        let report = rig.shut_down(Shutdown::drain());
        delegator.join().unwrap();
        worker.join().unwrap();
        assert!(series.is_stopped() && runs.get() <= 1 && report.unstarted.is_empty());
        assert_eq!((drops.get(), series.submitted()), (1, runs.get() as u64));
        rig.check_accounts(runs.get() as u64);
    });
}
