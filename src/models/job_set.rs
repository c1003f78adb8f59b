//! A set and the jobs in it: each finished member puts its number into the inbox, and the one who waits for so many of them
//! is woken for the last. Nobody sleeps on, no member is lost or collected twice.

use super::{Rig, Watch, explore};
use crate::clock::Tick;
use crate::{Context, Job, JobRecord, JobState};

#[test]
fn waiting_for_all() {
    explore(2, || {
        let (rig, watch) = (Rig::new(1, 2), Watch::default());
        let mut set = rig.submitter().job_set();
        set.submit(watch.job("first")).expect("room");
        set.submit(watch.job("second")).expect("room");
        rig.close();
        let worker = rig.worker(0);
        let records = set.wait_all();
        assert_eq!(records.iter().map(JobRecord::name).collect::<Vec<_>>(), ["first", "second"]);
        assert_eq!((watch.runs.get(), watch.drops.get()), (2, 2), "captures before the wake-up");
        worker.join().unwrap();
        rig.check_accounts(2);
    });
}

#[test]
fn one_after_the_other() {
    explore(2, || {
        let (rig, watch) = (Rig::new(1, 2), Watch::default());
        let worker = rig.worker(0);
        let mut set = rig.submitter().job_set();
        set.submit(watch.job("first")).expect("room");
        set.submit(watch.job("second")).expect("room");
        rig.close();
        for name in ["first", "second"] {
            let record = set.next_finished(std::time::Duration::MAX).expect("one is left");
            assert_eq!((record.name(), record.state()), (name, JobState::Completed));
        }
        assert!(set.is_empty());
        worker.join().unwrap();
        rig.check_accounts(2);
    });
}

/// Nobody works here: a cancel of the set's context wakes the set, which ends its members itself.
#[test]
fn cancelled_while_queued() {
    explore(3, || {
        let (rig, watch) = (Rig::new(1, 2), Watch::default());
        let (ctx, canceller) = Context::background().with_cancel();
        let mut set = rig.submitter().job_set().with_context(&ctx);
        set.submit(watch.job("job")).expect("room");
        let other = loom::thread::spawn(move || canceller.cancel());
        assert_eq!(set.wait_all()[0].state(), JobState::Cancelled);
        assert_eq!((watch.runs.get(), watch.drops.get()), (0, 1));
        other.join().unwrap();
        rig.check_accounts(1);
    });
}

/// The same for a member that has a context of its own, which ends by itself.
#[test]
fn member_with_its_own_context() {
    explore(3, || {
        let (rig, watch) = (Rig::new(1, 2), Watch::default());
        let (own, canceller) = Context::background().with_cancel();
        let mut set = rig.submitter().job_set();
        set.submit(watch.job("job").with_context(&own)).expect("room");
        let other = loom::thread::spawn(move || canceller.cancel());
        assert_eq!(set.wait_all()[0].state(), JobState::Cancelled);
        assert_eq!((watch.runs.get(), watch.drops.get()), (0, 1));
        other.join().unwrap();
        rig.check_accounts(1);
    });
}

#[test]
fn dropped_while_its_member_runs() {
    explore(3, || {
        let (rig, watch) = (Rig::new(1, 2), Watch::default());
        let mut set = rig.submitter().job_set();
        set.submit(watch.job("job")).expect("room");
        rig.close();
        let worker = rig.worker(0);
        drop(set);
        worker.join().unwrap();
        assert_eq!(watch.drops.get(), 1);
        rig.check_accounts(1);
    });
}

/// On the only worker: what the set waits for runs on the thread that waits.
#[test]
fn inside_a_job() {
    explore(2, || {
        let rig = Rig::new(1, 2);
        let submitter = rig.submitter();
        let outer = rig.accepted(Job::new("outer", move |_| {
            let mut set = submitter.job_set();
            set.submit(Job::new("inner", |_| Ok(vec![7])))?;
            Ok(set.wait_all()[0].payload().unwrap_or_default().to_vec())
        }));
        let worker = rig.worker(0);
        assert_eq!(outer.wait().payload(), Some(&[7][..]));
        rig.close();
        worker.join().unwrap();
        rig.check_accounts(2);
    });
}

/// Who gives up after a while collects the member later.
#[test]
fn gives_up_and_comes_back() {
    explore(2, || {
        let (rig, watch) = (Rig::new(1, 2), Watch::default());
        let mut set = rig.submitter().job_set();
        set.submit(watch.job("job")).expect("room");
        rig.close();
        let worker = rig.worker(0);
        let soon = Tick::now().after(std::time::Duration::from_millis(3));
        let early = set.next_finished(soon.since(Tick::now()).unwrap_or_default());
        assert_eq!(early.is_some(), set.is_empty());
        assert_eq!(set.wait_all().len() + usize::from(early.is_some()), 1);
        worker.join().unwrap();
        rig.check_accounts(1);
    });
}
