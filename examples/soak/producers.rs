//! Those who submit to the one delegator, cancel, wait, look away, and read its registry.

use std::collections::HashSet;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use workpath::{Canceller, Context, Delegator, JobId, JobRecord};

use crate::jobs::{self, Site};
use crate::world::{Form, Ids, LEDGER, Prickly, Rng, Sent, States, lock, put_away};

/// How much the registry of the one delegator retains.
pub(crate) const KEPT: usize = 256;
pub(crate) const KEPT_BYTES: usize = 32 << 10;

/// What every thread of the soak does between two quiet points, and where it stands still.
pub(crate) struct Pace {
    pub(crate) barrier: Barrier,
    pub(crate) resting: std::sync::atomic::AtomicBool,
    /// The ids that were seen since the last quiet point.
    pub(crate) ids: Mutex<Vec<JobId>>,
    /// What each thread is at, for the watchdog.
    pub(crate) places: Vec<Mutex<&'static str>>,
    pub(crate) steps: std::sync::atomic::AtomicU64,
}

impl Pace {
    /// Calls `step` again and again, and stands still at quiet points, until the end.
    pub(crate) fn keep(
        &self,
        place: usize,
        mut step: impl FnMut(&dyn Fn(&'static str)),
        mut rest: impl FnMut(),
    ) {
        use std::sync::atomic::Ordering;

        let say = |what| *lock(&self.places[place]) = what;
        loop {
            while !self.resting.load(Ordering::SeqCst) && !LEDGER.is_stopped() {
                step(&say);
                self.steps.fetch_add(1, Ordering::Relaxed);
            }
            say("at rest");
            rest();
            // In, and out again. Everybody decides on the end between the two, when nobody can change his mind.
            self.barrier.wait();
            self.barrier.wait();
            if LEDGER.is_stopped() {
                return;
            }
        }
    }
}

/// Bursts of jobs of all kinds, by all ways, under contexts of all kinds.
pub(crate) fn produce(pace: &Pace, place: usize, mut rng: Rng, site: &Site) {
    let ids = std::cell::RefCell::new(Ids::new());
    pace.keep(
        place,
        |say| burst(&mut rng, site, &mut ids.borrow_mut(), say),
        || ids.borrow_mut().move_to(&mut lock(&pace.ids)),
    );
}

fn burst(rng: &mut Rng, site: &Site, ids: &mut Ids, say: &dyn Fn(&'static str)) {
    let tree = Tree::grow(rng);
    let mut sent: Vec<Sent> = Vec::new();
    let size = if rng.one_in(8) { 200 } else { 1 + rng.below(24) };
    for _ in 0..size {
        let mut draft = jobs::any(rng, site);
        if rng.one_in(3) {
            draft = draft.with_context(tree.any(rng)).may(tree.may);
        }
        if rng.one_in(6) {
            let timeout = if rng.one_in(4) { Duration::ZERO } else { rng.micros(4_000) };
            draft = draft.with_timeout(timeout);
        }
        if rng.one_in(3) {
            draft = draft.with_options(rng);
        }
        ids.add(draft.job.id());
        say("submitting");
        match draft.send(&site.door, Form::any(rng)) {
            Ok(accepted) => sent.push(accepted),
            Err(refused) if rng.one_in(2) => {
                say("submitting again");
                match refused.send(&site.door, Form::Submit) {
                    Ok(accepted) => sent.push(accepted),
                    Err(_) => LEDGER.fail("a blocking submission was refused"),
                }
            }
            Err(refused) => put_away(refused),
        }
        if rng.one_in(12) && !sent.is_empty() {
            let victim = rng.below(sent.len() as u64) as usize;
            say("cancelling a job");
            cancel(rng, &mut sent[victim]);
        }
        if rng.one_in(40) {
            say("cancelling contexts");
            tree.cancel(rng);
        }
    }
    if rng.one_in(2) {
        say("cancelling contexts");
        tree.cancel(rng);
    }
    while !sent.is_empty() {
        let next = rng.below(sent.len() as u64) as usize;
        settle(rng, sent.swap_remove(next), say);
    }
    put_away(tree);
}

/// A context tree with its cancellers.
struct Tree {
    contexts: Vec<Context>,
    cancellers: Vec<Canceller>,
    may: States,
}

impl Tree {
    fn grow(rng: &mut Rng) -> Tree {
        let mut tree = Tree {
            contexts: vec![Context::background().with_value("root", rng.next())],
            cancellers: Vec::new(),
            may: States::CANCELLED,
        };
        for _ in 0..rng.below(10) {
            let parent = &tree.contexts[rng.below(tree.contexts.len() as u64) as usize];
            let child = match rng.below(5) {
                0 => parent.with_value("child", rng.next()),
                1 => {
                    tree.may = tree.may.or(States::TIMED_OUT);
                    parent.with_timeout(rng.micros(6_000))
                }
                2 => parent.without_cancel(),
                _ => {
                    let (child, canceller) = parent.with_cancel();
                    tree.cancellers.push(canceller);
                    child
                }
            };
            tree.contexts.push(child);
        }
        tree
    }

    fn any(&self, rng: &mut Rng) -> &Context {
        &self.contexts[rng.below(self.contexts.len() as u64) as usize]
    }

    fn cancel(&self, rng: &mut Rng) {
        if self.cancellers.is_empty() {
            return;
        }
        let canceller = &self.cancellers[rng.below(self.cancellers.len() as u64) as usize];
        match rng.below(3) {
            0 => canceller.cancel(),
            1 => canceller.cancel_with("enough"),
            _ => canceller.cancel_with(Prickly::any(rng)),
        }
    }
}

fn cancel(rng: &mut Rng, sent: &mut Sent) {
    sent.may = sent.may.or(States::CANCELLED);
    let _ = match rng.below(3) {
        0 => sent.handle.cancel(),
        1 => sent.handle.cancel_with("not needed"),
        _ => sent.handle.cancel_with(Prickly::any(rng)),
    };
}

/// Sees a job to its end in one of many ways, or looks away.
fn settle(rng: &mut Rng, mut sent: Sent, say: &dyn Fn(&'static str)) {
    if rng.one_in(16) {
        put_away(sent);
        return;
    }
    if rng.one_in(24) {
        say("cancelling a job");
        cancel(rng, &mut sent);
    }
    let record = match rng.below(6) {
        0 => {
            say("waiting with a time limit");
            loop {
                if let Some(record) = sent.handle.wait_timeout(rng.micros(2_000)) {
                    break record;
                }
            }
        }
        1 => {
            say("waiting for the channel of a job");
            let _ = sent.handle.done().recv();
            LEDGER.check(sent.handle.is_finished(), || "told of an end that has not come".to_owned());
            say("reading the record of a finished job");
            sent.handle.wait()
        }
        2 => {
            say("polling");
            loop {
                if let Some(record) = sent.handle.try_wait() {
                    break record;
                }
                std::thread::yield_now();
            }
        }
        _ => {
            say("waiting");
            sent.handle.wait()
        }
    };
    sent.verify(&record);
    sent.agree(&record, &sent.handle.wait());
    LEDGER.check(!sent.handle.cancel(), || format!("finished job {} could be cancelled", record.id()));
    say("joining");
    let handle = sent.handle.clone();
    let joined = handle.join();
    LEDGER.check(joined.as_deref().ok() == record.payload(), || {
        format!("job {} was joined to something else", record.id())
    });
    put_away((joined, record, sent));
}

/// Reads, and at times clears, the registry and everything else that can be read.
pub(crate) fn read(pace: &Pace, place: usize, mut rng: Rng, delegator: &Arc<Delegator>) {
    pace.keep(
        place,
        |say| {
            say("reading");
            look(&mut rng, delegator);
            std::thread::sleep(rng.micros(1_500));
        },
        || {},
    );
}

fn look(rng: &mut Rng, delegator: &Delegator) {
    let registry = delegator.registry();
    let records = registry.records();
    bounded(&records);
    match rng.below(8) {
        0 => registry.clear(),
        1 => {
            if let Some(record) = records.first() {
                let removed = registry.remove(record.id());
                LEDGER.check(removed.is_none() || registry.get(record.id()).is_none(), || {
                    format!("job {} was removed and is there", record.id())
                });
                put_away(removed);
            }
        }
        2 => {
            let stats = delegator.stats();
            let ended = stats.completed + stats.failed + stats.panicked + stats.cancelled + stats.timed_out;
            LEDGER.check(stats.submitted >= ended, || format!("more jobs ended than came: {stats:?}"));
        }
        3 => {
            let shown = format!("{delegator:?} {registry:?} {:?}", delegator.workers());
            LEDGER.check(!shown.is_empty(), || "nothing is shown".to_owned());
        }
        _ => {
            for record in records.iter().rev().take(16) {
                if let Some(found) = registry.get(record.id()) {
                    LEDGER.check(found.state() == record.state() && found.id() == record.id(), || {
                        format!("the registry has two answers for job {}", record.id())
                    });
                    put_away(found);
                }
            }
        }
    }
    put_away(records);
}

/// What holds of the registry at every moment.
fn bounded(records: &[JobRecord]) {
    let bytes: usize = records.iter().filter_map(JobRecord::payload).map(<[u8]>::len).sum();
    LEDGER.check(records.len() <= KEPT && bytes <= KEPT_BYTES, || {
        format!("{} records with {bytes} bytes are retained", records.len())
    });
    let ids: HashSet<JobId> = records.iter().map(JobRecord::id).collect();
    LEDGER.check(ids.len() == records.len(), || "a job is in the registry twice".to_owned());
    let finished = records.iter().all(|record| record.state().is_finished());
    LEDGER.check(finished, || "a job in the registry is not finished".to_owned());
}
