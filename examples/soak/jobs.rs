//! The kinds of jobs: well-behaved, failing, panicking, slow, nested and curious.

use std::panic::panic_any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::select;
use workpath::{Context, Delegator, Error, Job, Priority};

use crate::world::{
    Door, Form, Freight, LEDGER, Matryoshka, Note, Prickly, Rng, Sent, States, TIMER, add, eventually, nap,
    no_house_thread, put_away,
};

/// A job that is not submitted yet, with what may become of it.
pub(crate) struct Draft {
    pub(crate) job: Job,
    pub(crate) note: Arc<Note>,
    pub(crate) may: States,
    pub(crate) payload: Option<Vec<u8>>,
}

impl Draft {
    pub(crate) fn may(mut self, states: States) -> Draft {
        self.may = self.may.or(states);
        self
    }

    pub(crate) fn with_context(mut self, context: &Context) -> Draft {
        self.job = self.job.with_context(context);
        self
    }

    pub(crate) fn with_timeout(mut self, timeout: Duration) -> Draft {
        self.job = self.job.with_timeout(timeout);
        self.may(States::TIMED_OUT)
    }

    /// Has it go first, last, later, or one at a time with others.
    pub(crate) fn with_options(mut self, rng: &mut Rng) -> Draft {
        if rng.one_in(2) {
            let priority = if rng.one_in(2) { Priority::High } else { Priority::Low };
            self.job = self.job.with_priority(priority);
        }
        if rng.one_in(2) {
            self.job = self.job.with_key(["red", "green", "blue"][rng.below(3) as usize]);
        }
        if rng.one_in(4) {
            self.job = self.job.with_delay(rng.micros(2_000));
        }
        self
    }

    /// Submits it. What is refused comes back.
    pub(crate) fn send(self, door: &Door, form: Form) -> Result<Sent, Box<Draft>> {
        let Draft { job, note, may, payload } = self;
        match door.send(form, job) {
            Ok(handle) => Ok(Sent { handle, note, may, payload }),
            Err(error) => Err(Box::new(Draft { job: error.into_job(), note, may, payload })),
        }
    }
}

/// Where a job may turn to from inside.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) door: Door,
    /// To look around in; nobody's last reference.
    pub(crate) delegator: Arc<Delegator>,
}

/// A job of a kind that may run anywhere.
pub(crate) fn portable(rng: &mut Rng, site: &Site) -> Draft {
    match rng.below(8) {
        0..=3 => simple(rng),
        4 => naps(rng),
        5 => listens(rng),
        6 => awaits_the_end(rng),
        _ => spreads(rng, site, 0),
    }
}

/// A job of any kind.
pub(crate) fn any(rng: &mut Rng, site: &Site) -> Draft {
    match rng.below(32) {
        0..=11 => yields(rng),
        12..=14 => fails(rng),
        15..=18 => panics(rng),
        19..=21 => naps(rng),
        22..=23 => listens(rng),
        24..=26 => spreads(rng, site, 2),
        27..=28 => calls_back(rng, site),
        29 => looks_around(site),
        30 => stubborn(rng),
        _ => awaits_the_end(rng),
    }
}

/// One that ends by itself at once.
pub(crate) fn simple(rng: &mut Rng) -> Draft {
    match rng.below(4) {
        0 => fails(rng),
        1 => panics(rng),
        _ => yields(rng),
    }
}

fn draft(
    name: &'static str,
    may: States,
    bomb: bool,
    body: impl Fn(&Context) -> Result<Vec<u8>, Error> + Send + 'static,
) -> Draft {
    let note = Arc::<Note>::default();
    let freight = Freight::new(&note, bomb);
    let job = Job::new(name, move |ctx| {
        freight.begin();
        body(ctx)
    });
    Draft { job, note, may, payload: None }
}

fn yields(rng: &mut Rng) -> Draft {
    let payload = vec![rng.below(256) as u8; rng.below(600) as usize];
    let copy = payload.clone();
    let mut draft = draft("yields", States::COMPLETED, rng.one_in(16), move |_| Ok(copy.clone()));
    draft.payload = Some(payload);
    draft
}

fn fails(rng: &mut Rng) -> Draft {
    let seed = rng.next();
    draft("fails", States::FAILED, rng.one_in(8), move |_| {
        let mut rng = Rng::new(seed);
        match rng.below(3) {
            0 => Err("an error of its own".into()),
            1 => Err(Error::new(Prickly::any(&mut rng))),
            // The end of another context is none of this one's.
            _ => {
                let (other, canceller) = Context::background().with_cancel();
                canceller.cancel();
                other.check().map(|()| Vec::new())
            }
        }
    })
}

fn panics(rng: &mut Rng) -> Draft {
    let kind = rng.below(5);
    draft("panics", States::PANICKED, rng.one_in(8), move |_| match kind {
        0 => panic!("a panic on purpose"),
        1 => panic!("a panic with a number: {kind}"),
        2 => panic_any(kind),
        3 => panic_any(Matryoshka(3)),
        _ => Ok("not a number".parse::<u8>().map(|number| vec![number]).unwrap()),
    })
}

fn naps(rng: &mut Rng) -> Draft {
    let (time, heedless) = (rng.micros(1_500), rng.one_in(4));
    draft("naps", States::COMPLETED, rng.one_in(16), move |ctx| {
        nap(ctx, time, heedless)?;
        Ok(Vec::new())
    })
}

fn listens(rng: &mut Rng) -> Draft {
    let time = rng.micros(1_500);
    draft("listens", States::COMPLETED, false, move |ctx| {
        select! {
            recv(ctx.done()) -> _ => {
                let error = ctx.error();
                LEDGER.check(error.is_some(), || "a context told of an end that has not come".to_owned());
            }
            default(time) => {}
        }
        ctx.check()?;
        Ok(Vec::new())
    })
}

/// Runs until its context ends, or for a moment.
fn awaits_the_end(rng: &mut Rng) -> Draft {
    let time = rng.micros(3_000);
    draft("awaits", States::COMPLETED, false, move |ctx| {
        let begin = Instant::now();
        while begin.elapsed() < time {
            ctx.check()?;
            std::thread::yield_now();
        }
        Ok(Vec::new())
    })
}

/// Takes long and looks at nothing.
fn stubborn(rng: &mut Rng) -> Draft {
    let time = if rng.one_in(64) { Duration::from_millis(60) } else { rng.micros(4_000) };
    draft("stubborn", States::COMPLETED, rng.one_in(4), move |_| {
        std::thread::sleep(time);
        Ok(Vec::new())
    })
}

/// Submits others, some of which do the same, and waits for them.
fn spreads(rng: &mut Rng, site: &Site, depth: u32) -> Draft {
    let (seed, site) = (rng.next(), site.clone());
    draft("spreads", States::COMPLETED, rng.one_in(16), move |ctx| {
        let mut rng = Rng::new(seed);
        let (inner, canceller) = ctx.with_cancel();
        let mut sent = Vec::new();
        for _ in 0..=rng.below(4) {
            let child = if depth > 0 && rng.one_in(3) {
                spreads(&mut rng, &site, depth - 1)
            } else {
                simple(&mut rng)
            };
            // A parent may be cancelled, or be out of time, at any moment.
            let child = child.with_context(&inner).may(States::CANCELLED).may(States::TIMED_OUT);
            let form = if rng.one_in(2) { Form::Submit } else { Form::at_once(&mut rng) };
            match child.send(&site.door, form) {
                Ok(child) => sent.push(child),
                Err(child) => put_away(child),
            }
        }
        if rng.one_in(8) {
            canceller.cancel_with(Prickly::any(&mut rng));
        }
        for child in &sent {
            if rng.one_in(8) {
                child.handle.cancel();
            }
            let record = child.handle.wait();
            child.verify(&record);
        }
        let (count, ended) = (sent.len(), ctx.check());
        put_away((sent, inner, canceller));
        ended.map(|()| vec![count as u8])
    })
}

/// Registers functions with its context.
fn calls_back(rng: &mut Rng, site: &Site) -> Draft {
    let (seed, door) = (rng.next(), site.door.clone());
    draft("calls back", States::COMPLETED, false, move |ctx| {
        let mut rng = Rng::new(seed);
        let (inner, canceller) = ctx.with_timeout(rng.micros(2_000)).with_cancel();
        let calls = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let mut registered = Vec::new();
        for number in 0..4 {
            let (calls, door, mut rng) = (Arc::clone(&calls), door.clone(), rng.fork());
            registered.push(inner.on_done(move || {
                add(&LEDGER.callbacks);
                calls.fetch_add(1, Ordering::SeqCst);
                if rng.one_in(2) {
                    panic!("callback {number} panics");
                }
                if std::thread::current().name() != Some(TIMER) {
                    match simple(&mut rng).send(&door, Form::at_once(&mut rng)) {
                        Ok(sent) => put_away(sent),
                        Err(draft) => put_away(draft),
                    }
                }
            }));
        }
        let stopped =
            registered.into_iter().filter(|_| rng.one_in(2)).filter_map(|it| it.stop().then_some(()));
        let expected = 4 - stopped.count() as u64;
        if rng.one_in(2) {
            canceller.cancel_with(Prickly::any(&mut rng));
        }
        let _ = inner.sleep(Duration::from_millis(2));
        LEDGER.check(eventually(|| calls.load(Ordering::SeqCst) >= expected), || {
            format!("{} of {expected} functions were called", calls.load(Ordering::SeqCst))
        });
        let called = calls.load(Ordering::SeqCst);
        LEDGER.check(called == expected, || format!("{called} functions were called instead of {expected}"));
        put_away((inner, canceller));
        // What is stopped leaves nothing behind, however far away its deadline is.
        let _ = ctx.with_timeout(Duration::from_secs(60 * 60)).on_done(|| {}).stop();
        Ok(Vec::new())
    })
}

/// Reads whatever can be read from inside a job.
fn looks_around(site: &Site) -> Draft {
    let site = site.clone();
    draft("looks around", States::COMPLETED, false, move |_| {
        no_house_thread("an operation ran");
        let here = std::thread::current();
        let running = site.delegator.workers().into_iter().find(|it| Some(&*it.thread_name) == here.name());
        LEDGER.check(running.is_some_and(|it| it.running.is_some()), || {
            format!("the worker {:?} is said to be idle while it works", here.name())
        });
        let stats = site.delegator.stats();
        LEDGER.check(stats.running > 0, || format!("nothing runs, says a job that runs: {stats:?}"));
        let records = site.delegator.registry().records();
        let newest = records.last().map(|record| record.name().len() as u8);
        put_away(records);
        Ok(newest.into_iter().collect())
    })
}
