//! A job that goes back to wait for its next attempt while somebody cancels it, or shuts the delegator down: it ends
//! once, and a cancel that was promised is kept.

use std::time::Duration;

use loom::thread::spawn;

use super::{Count, Rig, explore};
use crate::clock::Tick;
use crate::{Job, JobState, Retry, Shutdown};

const SOON: Duration = Duration::from_secs(3600);

/// Fails, and counts how often it was run and dropped.
fn broken(runs: &Count, drops: &Count, attempts: u32) -> Job {
    let (runs, captured) = (runs.clone(), drops.on_drop());
    let job = Job::new("broken", move |_| {
        let _ = &captured;
        runs.add();
        Err("no".into())
    });
    job.with_retry(Retry::fixed(SOON).max_attempts(attempts))
}

#[test]
fn put_back_against_a_cancel() {
    explore(3, || {
        let (rig, runs, drops) = (Rig::new(1, 1), Count::default(), Count::default());
        let handle = rig.accepted(broken(&runs, &drops, 5));
        rig.close();
        let worker = rig.worker(0);
        assert!(handle.cancel(), "it would be tried again");
        worker.join().unwrap();
        // The operation may have failed after it was told to stop: then it has the last word.
        assert!(matches!(handle.state(), JobState::Cancelled | JobState::Failed), "{}", handle.state());
        assert!(runs.get() <= 1);
        assert_eq!((drops.get(), rig.engine.agenda.lock().len()), (1, 0));
        assert!(rig.engine.registry.wait_idle(Tick::NEVER, |_| panic!("it is idle")));
        rig.check_accounts(1);
    });
}

#[test]
fn put_back_against_a_shutdown() {
    explore(2, || {
        let (rig, runs, drops) = (Rig::new(1, 1), Count::default(), Count::default());
        let handle = rig.accepted(broken(&runs, &drops, 5));
        let worker = rig.worker(0);
        let report = rig.shut_down(Shutdown::drain());
        worker.join().unwrap();
        assert_eq!((handle.state(), report.unstarted.len()), (JobState::Cancelled, 1));
        assert_eq!((runs.get(), handle.attempts()), (1, 1));
        rig.check_accounts(1);
        drop(report);
        assert_eq!(drops.get(), 1);
    });
}

/// The second attempt may begin while a cancel still believes in the first.
#[test]
fn the_next_attempt_against_a_cancel() {
    explore(2, || {
        let (rig, runs, drops) = (Rig::new(1, 1), Count::default(), Count::default());
        let handle = rig.accepted(broken(&runs, &drops, 5));
        let canceller = {
            let handle = handle.clone();
            spawn(move || assert!(handle.cancel(), "it would be tried again"))
        };
        let worker = rig.worker(0);
        rig.engine.look_around(Tick::now().after(2 * SOON));
        canceller.join().unwrap();
        rig.close();
        worker.join().unwrap();
        assert!(matches!(handle.state(), JobState::Cancelled | JobState::Failed), "{}", handle.state());
        rig.check_accounts(1);
        assert_eq!((drops.get(), rig.engine.agenda.lock().len()), (1, 0));
    });
}
