//! Delegators that come and go meanwhile, in every way there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use workpath::{Context, Delegator, Job, JobState, Retention, Shutdown, ShutdownReport, Stats};

use crate::jobs::{self, Draft, Site};
use crate::producers::Pace;
use crate::world::{
    Door, Form, Freight, LEDGER, Note, PATIENCE, Rng, Sent, States, add, eventually, put_away,
};

/// Builds, uses and ends delegators until the soak is over.
pub(crate) fn churn(pace: &Pace, place: usize, mut rng: Rng, site: &Site) {
    pace.keep(place, |say| one_life(&mut rng, site, say), || {});
}

fn one_life(rng: &mut Rng, main: &Site, say: &dyn Fn(&'static str)) {
    say("building a delegator");
    add(&LEDGER.delegators);
    let (workers, capacity) = (1 + rng.below(3) as usize, [0, 1, 2, 8, 64][rng.below(5) as usize]);
    let hooks = Arc::new(AtomicU64::new(0));
    let mut builder = Delegator::builder().workers(workers).queue_capacity(capacity).thread_name("brief");
    builder = match rng.below(3) {
        0 => builder.retain(Retention::none()),
        1 => builder.retain(Retention::last(4).max_bytes(100).max_age(Duration::from_millis(1))),
        _ => builder,
    };
    if rng.one_in(4) {
        builder = builder.default_timeout(rng.micros(3_000));
    }
    for which in 0..2 {
        let (hooks, panics) = (Arc::clone(&hooks), rng.one_in(2));
        let hook = move |_| {
            hooks.fetch_add(1, Ordering::SeqCst);
            if panics {
                panic!("a hook that panics");
            }
        };
        builder = if which == 0 { builder.on_worker_start(hook) } else { builder.on_worker_stop(hook) };
    }
    let delegator = match builder.build() {
        Ok(delegator) => delegator,
        Err(error) => return LEDGER.fail(format_args!("a delegator could not be built: {error}")),
    };
    let ended = match rng.below(6) {
        0 => by_drop(rng, main, delegator, say),
        1 => from_inside(rng, main, delegator, say),
        2 => with_the_unstarted(rng, main, delegator, say),
        3 => with_stuck_jobs(rng, delegator, workers, say),
        4 => by_two(rng, main, delegator, say),
        _ => by_one(rng, main, delegator, say),
    };
    if ended {
        let calls = || hooks.load(Ordering::SeqCst);
        LEDGER.check(eventually(|| calls() == 2 * workers as u64), || {
            format!("{} calls of hooks of {workers} workers that started and stopped", calls())
        });
    }
}

/// Submits a few jobs that may be anywhere when the end comes.
fn some(rng: &mut Rng, main: &Site, door: &Door) -> Vec<Sent> {
    let (context, canceller) = Context::background().with_cancel();
    let mut sent = Vec::new();
    for _ in 0..rng.below(16) {
        // A shutdown may cancel any of them, and a default timeout end any of them.
        let mut draft = jobs::portable(rng, main).may(States::CANCELLED).may(States::TIMED_OUT);
        if rng.one_in(3) {
            draft = draft.with_context(&context);
        }
        match draft.send(door, Form::any(rng)) {
            Ok(accepted) => sent.push(accepted),
            Err(refused) => put_away(refused),
        }
    }
    if rng.one_in(3) {
        canceller.cancel();
    }
    sent
}

fn all_ended(sent: Vec<Sent>, say: &dyn Fn(&'static str)) {
    say("waiting for the jobs of an ended delegator");
    for sent in sent {
        match sent.handle.wait_timeout(PATIENCE) {
            Some(record) => {
                sent.verify(&record);
                put_away((record, sent));
            }
            None => LEDGER.fail(format_args!("job {} outlives its delegator", sent.handle.id())),
        }
    }
}

fn balanced(stats: &Stats, door: &Door) {
    let ended = stats.completed + stats.failed + stats.panicked + stats.cancelled + stats.timed_out;
    let (accepted, refused) =
        (door.tally().accepted.load(Ordering::SeqCst), door.tally().refused.load(Ordering::SeqCst));
    LEDGER.check(
        (stats.queued, stats.running) == (0, 0)
            && stats.submitted == ended
            && stats.submitted == accepted
            && stats.rejected == refused,
        || {
            format!(
                "the accounts of an ended delegator: {stats:?}, of {accepted} accepted and {refused} refused"
            )
        },
    );
}

fn by_drop(rng: &mut Rng, main: &Site, delegator: Delegator, say: &dyn Fn(&'static str)) -> bool {
    say("submitting to a brief delegator");
    let door = Door::new(delegator.submitter());
    let sent = some(rng, main, &door);
    say("dropping a delegator");
    drop(delegator);
    for sent in &sent {
        LEDGER.check(sent.handle.is_finished(), || {
            format!("a dropped delegator left job {} {}", sent.handle.id(), sent.handle.state())
        });
    }
    if let Ok(late) = jobs::simple(rng).send(&door, Form::any(rng)).map_err(put_away) {
        LEDGER.fail(format_args!("a dropped delegator accepted job {}", late.handle.id()));
    }
    all_ended(sent, say);
    true
}

fn any_shutdown(rng: &mut Rng) -> Shutdown {
    let how = if rng.one_in(2) { Shutdown::drain() } else { Shutdown::cancel() };
    match rng.below(3) {
        0 => how,
        1 => how.within(Duration::from_secs(60)),
        _ => how.within(rng.micros(3_000)),
    }
}

fn by_one(rng: &mut Rng, main: &Site, delegator: Delegator, say: &dyn Fn(&'static str)) -> bool {
    say("submitting to a brief delegator");
    let door = Door::new(delegator.submitter());
    let sent = some(rng, main, &door);
    say("shutting a delegator down");
    let report = delegator.shutdown(any_shutdown(rng));
    finish(report, &delegator, &door, sent, rng, main, say)
}

/// Two threads shut down at once; a third submits meanwhile.
fn by_two(rng: &mut Rng, main: &Site, delegator: Delegator, say: &dyn Fn(&'static str)) -> bool {
    say("submitting to a brief delegator");
    let door = Door::new(delegator.submitter());
    let mut sent = some(rng, main, &door);
    let (first, second, mut others) = (any_shutdown(rng), any_shutdown(rng), rng.fork());
    say("shutting a delegator down twice at once");
    let (report, late) = thread::scope(|scope| {
        let one = scope.spawn(|| delegator.shutdown(first));
        let two = scope.spawn(|| delegator.shutdown(second));
        let three = scope.spawn(|| some(&mut others, main, &door));
        let (one, two) = (one.join(), two.join());
        let report = match (one, two) {
            (Ok(one), Ok(two)) => {
                LEDGER.check(one.total() == 0 || two.total() == 0, || {
                    format!("two shutdowns report: {one:?} and {two:?}")
                });
                if one.total() == 0 { two } else { one }
            }
            _ => {
                LEDGER.fail("a shutdown panicked");
                ShutdownReport::default()
            }
        };
        (report, three.join().unwrap_or_default())
    });
    sent.extend(late);
    finish(report, &delegator, &door, sent, rng, main, say)
}

/// What must hold after a shutdown from outside.
fn finish(
    report: ShutdownReport,
    delegator: &Delegator,
    door: &Door,
    sent: Vec<Sent>,
    rng: &mut Rng,
    main: &Site,
    say: &dyn Fn(&'static str),
) -> bool {
    LEDGER.check(report.total() <= sent.len(), || {
        format!("a shutdown reports {} of {} jobs: {report:?}", report.total(), sent.len())
    });
    let stuck = !report.stuck.is_empty();
    let sent = elsewhere(report, sent, rng, main, say);
    all_ended(sent, say);
    // A stuck job is counted a moment before its worker is told to stop.
    balanced(&delegator.stats(), door);
    !stuck
}

/// Submits the unstarted jobs of a report to the one delegator. Their handles say cancelled, and what they captured is
/// dropped when they have run there.
fn elsewhere(
    report: ShutdownReport,
    mut sent: Vec<Sent>,
    rng: &mut Rng,
    main: &Site,
    say: &dyn Fn(&'static str),
) -> Vec<Sent> {
    say("submitting unstarted jobs again");
    for job in report.unstarted {
        let Some(at) = sent.iter().position(|sent| sent.handle.id() == job.id()) else {
            LEDGER.fail(format_args!("job {} was handed back by a delegator that never had it", job.id()));
            continue;
        };
        let old = sent.swap_remove(at);
        let state = old.handle.state();
        LEDGER.check(state == JobState::Cancelled, || format!("unstarted job {} is {state}", job.id()));
        let runs = old.note.runs.load(Ordering::SeqCst);
        LEDGER.check(runs == 0, || format!("unstarted job {} was run {runs} times", job.id()));
        let again = Draft { job, note: Arc::clone(&old.note), may: old.may, payload: old.payload.clone() };
        match again.send(&main.door, Form::any(rng)) {
            Ok(accepted) => all_ended(vec![accepted], say),
            Err(refused) => put_away(refused),
        }
        put_away(old);
    }
    sent
}

/// A job drops the last reference, or shuts down, from inside.
fn from_inside(rng: &mut Rng, main: &Site, delegator: Delegator, say: &dyn Fn(&'static str)) -> bool {
    say("submitting to a delegator that ends from inside");
    let door = Door::new(delegator.submitter());
    let mut sent = some(rng, main, &door);
    let delegator = Arc::new(delegator);
    let note = Arc::<Note>::default();
    let freight = Freight::new(&note, false);
    let how = if rng.one_in(2) { Some(any_shutdown(rng)) } else { None };
    let own = std::sync::Mutex::new(Some(Arc::clone(&delegator)));
    let job = Job::new("ends its own delegator", move |_| {
        freight.begin();
        let own = crate::world::lock(&own).take();
        if let (Some(how), Some(own)) = (how, &own) {
            put_away(own.shutdown(how));
        }
        drop(own);
        Ok(Vec::new())
    });
    let may = States::COMPLETED.or(States::CANCELLED).or(States::TIMED_OUT);
    let last = Draft { job, note, may, payload: Some(Vec::new()) };
    match last.send(&door, Form::Submit) {
        Ok(accepted) => sent.push(accepted),
        Err(_) => LEDGER.fail("a delegator that nobody shut down refused a job"),
    }
    drop(delegator);
    say("waiting for a delegator that ends from inside");
    // The jobs that it hands back are dropped in there, after their handles have ended.
    for sent in sent.iter().rev() {
        put_away(sent.handle.wait());
    }
    all_ended(sent, say);
    true
}

/// Jobs that wait for the shutdown, most of them in the queue.
fn with_the_unstarted(rng: &mut Rng, main: &Site, delegator: Delegator, say: &dyn Fn(&'static str)) -> bool {
    say("submitting jobs that wait for their end");
    let door = Door::new(delegator.submitter());
    let mut sent = Vec::new();
    for _ in 0..1 + rng.below(12) {
        let note = Arc::<Note>::default();
        let freight = Freight::new(&note, rng.one_in(8));
        let patience = Duration::from_millis(if rng.one_in(2) { 20 } else { 0 });
        let job = Job::new("waits for its end", move |ctx| {
            freight.begin();
            ctx.sleep(patience)?;
            Ok(Vec::new())
        });
        let may = States::COMPLETED.or(States::CANCELLED).or(States::TIMED_OUT);
        match (Draft { job, note, may, payload: Some(Vec::new()) }).send(&door, Form::at_once(rng)) {
            Ok(accepted) => sent.push(accepted),
            Err(refused) => put_away(refused),
        }
    }
    let before = delegator.stats();
    say("cancelling a delegator");
    let report = delegator.shutdown(Shutdown::cancel());
    let after = delegator.stats();
    // What finished between the first numbers and the begin of the shutdown is in neither.
    let most = before.queued + before.running;
    LEDGER.check(report.total() <= most && report.stuck.is_empty(), || {
        format!("{most} jobs were there when a shutdown reported {report:?}")
    });
    let outcomes =
        (after.completed + after.failed + after.panicked + after.timed_out + after.cancelled) as usize;
    LEDGER.check(outcomes == sent.len(), || format!("{} jobs, and {after:?}", sent.len()));
    finish(report, &delegator, &door, sent, rng, main, say)
}

/// Jobs that do not end in time: they are reported, and end later.
fn with_stuck_jobs(rng: &mut Rng, delegator: Delegator, workers: usize, say: &dyn Fn(&'static str)) -> bool {
    say("submitting jobs that get stuck");
    if !rng.one_in(8) {
        // The grace of a shutdown takes its time: not every time.
        drop(delegator);
        return true;
    }
    let door = Door::new(delegator.submitter());
    let (open, gate) = crossbeam_channel::bounded::<()>(0);
    let running = Arc::new(AtomicU64::new(0));
    let mut sent = Vec::new();
    for _ in 0..workers {
        let note = Arc::<Note>::default();
        let freight = Freight::new(&note, false);
        let (gate, running) = (gate.clone(), Arc::clone(&running));
        let job = Job::new("gets stuck", move |_| {
            freight.begin();
            running.fetch_add(1, Ordering::SeqCst);
            let _ = gate.recv();
            Ok(Vec::new())
        });
        let may = States::COMPLETED.or(States::TIMED_OUT);
        match (Draft { job, note, may, payload: None }).send(&door, Form::Submit) {
            Ok(accepted) => sent.push(accepted),
            Err(_) => LEDGER.fail("a delegator that nobody shut down refused a job"),
        }
    }
    say("waiting for jobs to get stuck");
    let begun = eventually(|| {
        let over = sent.iter().filter(|sent| sent.handle.state() == JobState::TimedOut).count();
        running.load(Ordering::SeqCst) as usize + over == workers
    });
    LEDGER.check(begun, || "free workers did not begin the jobs they had".to_owned());
    say("shutting a stuck delegator down");
    let report = delegator.shutdown(Shutdown::drain().within(rng.micros(2_000)));
    let stuck = running.load(Ordering::SeqCst) as usize;
    LEDGER.check(report.stuck.len() == stuck && report.total() == stuck, || {
        format!("{stuck} of {workers} workers are stuck, and a shutdown reports {report:?}")
    });
    drop(open);
    all_ended(sent, say);
    LEDGER.check(eventually(|| delegator.stats().running == 0), || {
        "a stuck job that has ended is still said to run".to_owned()
    });
    balanced(&delegator.stats(), &door);
    true
}
