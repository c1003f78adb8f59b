//! The jobs that the delegator gets: they do what a [`Spec`] says, and wait at gates for the test.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select, unbounded};
use workpath::{
    Context, Delegator, Error, Job, JobHandle, JobId, Operation, Shutdown, ShutdownReport, SubmitError,
    Submitter,
};

use crate::common::{FOREVER, PATIENCE};
use crate::ops::{Child, Ending, Form, Gate, Inside, Limit, Payload, Spec};

/// How long a time limit of [`Limit::Soon`] is. Short, since steps wait until it is over.
pub(crate) const SOON: Duration = Duration::from_millis(8);

/// The outside of a job: its gate, and what it was seen to do.
pub(crate) struct Cell {
    pub(crate) gate: (Sender<Word>, Receiver<Word>),
    pub(crate) runs: AtomicU32,
    pub(crate) drops: AtomicU32,
    /// At its gate it was asked whether its context is done, and it was.
    pub(crate) saw_end: AtomicBool,
    /// It has gone through its gate, and has looked at its context.
    pub(crate) went: AtomicBool,
}

impl Cell {
    pub(crate) fn new() -> Arc<Cell> {
        Arc::new(Cell {
            gate: unbounded(),
            runs: AtomicU32::new(0),
            drops: AtomicU32::new(0),
            saw_end: AtomicBool::new(false),
            went: AtomicBool::new(false),
        })
    }
}

/// What a job is told at its gate.
pub(crate) enum Word {
    /// To look at its context.
    Look,
    Go(Go),
}

/// The gate is open.
pub(crate) struct Go {
    /// Whether its context is done by now. Another thread may be a moment from ending it.
    pub(crate) done: bool,
    /// The numbers of the jobs that it will submit, and whether they will be accepted.
    pub(crate) children: Vec<(usize, bool)>,
}

/// A job that a job has submitted.
pub(crate) struct Born {
    pub(crate) number: usize,
    pub(crate) id: JobId,
    /// Unless it was refused.
    pub(crate) handle: Option<JobHandle>,
    pub(crate) cell: Arc<Cell>,
}

/// What jobs share with the test.
pub(crate) struct Shared {
    pub(crate) submitter: Submitter,
    pub(crate) delegator: Weak<Delegator>,
    /// What jobs have submitted.
    pub(crate) born: Mutex<Vec<Born>>,
    /// Refusals that may happen while a worker is between two jobs.
    pub(crate) extra: AtomicU64,
    pub(crate) inner_report: Mutex<Option<ShutdownReport>>,
    wrong: Mutex<Option<String>>,
}

impl Shared {
    pub(crate) fn new(delegator: &Arc<Delegator>) -> Arc<Shared> {
        Arc::new(Shared {
            submitter: delegator.submitter(),
            delegator: Arc::downgrade(delegator),
            born: Mutex::default(),
            extra: AtomicU64::new(0),
            inner_report: Mutex::default(),
            wrong: Mutex::default(),
        })
    }

    fn wrong(&self, what: impl Into<String>) {
        lock(&self.wrong).get_or_insert(what.into());
    }

    pub(crate) fn anything_wrong(&self) -> Result<(), String> {
        lock(&self.wrong).clone().map_or(Ok(()), Err)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops what may panic.
pub(crate) fn put_away<T>(value: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

/// What the operation captures.
struct Captured {
    cell: Arc<Cell>,
    bomb: bool,
}

impl Drop for Captured {
    fn drop(&mut self) {
        self.cell.drops.fetch_add(1, Ordering::SeqCst);
        if self.bomb && !thread::panicking() {
            panic!("planned: a captured value");
        }
    }
}

struct Bomb(u32);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 > 0 && !thread::panicking() {
            panic_any(Bomb(self.0 - 1));
        }
    }
}

struct Scripted {
    spec: Spec,
    captured: Captured,
    shared: Arc<Shared>,
}

impl Operation for Scripted {
    fn run(&self, ctx: &Context) -> Result<Vec<u8>, Error> {
        let Scripted { spec, captured: Captured { cell, .. }, shared } = self;
        cell.runs.fetch_add(1, Ordering::SeqCst);
        let gate = &cell.gate.1;
        let word = match spec.gate {
            Gate::None => gate.try_recv().ok(),
            Gate::Heedless => loop {
                match gate.recv_timeout(PATIENCE) {
                    Ok(Word::Look) => cell.saw_end.store(ctx.is_done(), Ordering::SeqCst),
                    Ok(word) => break Some(word),
                    Err(_) => {
                        shared.wrong("a gate was never opened");
                        break None;
                    }
                }
            },
            Gate::Attentive if spec.typed => ctx.recv(gate).ok(),
            Gate::Attentive => select! {
                recv(gate) -> word => word.ok(),
                recv(ctx.done()) -> _ => None,
            },
        };
        let go = if let Some(Word::Go(go)) = word { Some(go) } else { None };
        let done = go.as_ref().map_or(spec.gate == Gate::Attentive, |go| go.done);
        let start = Instant::now();
        while done && !ctx.is_done() && start.elapsed() < PATIENCE {
            thread::yield_now();
        }
        if done != ctx.is_done() && (done || spec.limit != Limit::Soon) {
            shared.wrong(format!("the context of a job is done: {}, not {done}", ctx.is_done()));
        }
        cell.went.store(true, Ordering::SeqCst);
        match &spec.inside {
            Inside::Nothing => {}
            Inside::Nests(children) => {
                let numbers = go.map(|go| go.children).unwrap_or_default();
                for (child, (number, accepted)) in children.iter().zip(numbers) {
                    nest(shared, ctx, child, number, accepted);
                }
            }
            Inside::ShutsDown { cancel } => {
                if let Some(delegator) = shared.delegator.upgrade() {
                    let how = if *cancel { Shutdown::cancel() } else { Shutdown::drain() };
                    *lock(&shared.inner_report) = Some(delegator.shutdown(how));
                }
            }
        }
        match spec.ending {
            Ending::Bytes(length) => Ok(vec![7; length]),
            Ending::Obeys(length) => ctx.check().map(|()| vec![7; length]),
            Ending::Fails => Err("fails on its own".into()),
            Ending::Foreign => {
                let (other, canceller) = Context::background().with_cancel();
                canceller.cancel();
                other.check().map(|()| Vec::new())
            }
            Ending::Panics(Payload::Str) => panic!("planned: boom"),
            Ending::Panics(Payload::Text) => panic!("planned: boom {}", spec.typed),
            Ending::Panics(Payload::Number) => panic_any(7_u8),
            Ending::Panics(Payload::Bomb) => panic_any(Bomb(3)),
        }
    }

    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed("scripted")
    }
}

/// A real job as its specification says, but for the context.
pub(crate) fn job(spec: &Spec, cell: &Arc<Cell>, shared: &Arc<Shared>) -> Job {
    let captured = Captured { cell: Arc::clone(cell), bomb: spec.bomb };
    let scripted = Scripted { spec: spec.clone(), captured, shared: Arc::clone(shared) };
    if spec.typed {
        Job::from_operation(scripted)
    } else {
        Job::new("scripted", move |ctx| scripted.run(ctx))
    }
}

/// A job sets its time limit.
pub(crate) fn limited(job: Job, limit: Limit, soon: Instant) -> Job {
    match limit {
        Limit::None => job,
        Limit::Zero => job.with_timeout(Duration::ZERO),
        Limit::Past => job.with_deadline(past()),
        Limit::Far => job.with_timeout(FOREVER),
        Limit::Max => job.with_timeout(Duration::MAX),
        Limit::Soon => job.with_deadline(soon),
    }
}

pub(crate) fn past() -> Instant {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(1)).unwrap_or(now)
}

pub(crate) fn duration(limit: Limit) -> Duration {
    match limit {
        Limit::Zero | Limit::Past => Duration::ZERO,
        Limit::Soon => SOON,
        Limit::Far => FOREVER,
        Limit::None | Limit::Max => Duration::MAX,
    }
}

pub(crate) fn instant(limit: Limit) -> Instant {
    match limit {
        Limit::Past => past(),
        _ => Instant::now() + duration(limit).min(FOREVER),
    }
}

fn nest(shared: &Arc<Shared>, ctx: &Context, child: &Child, number: usize, accepted: bool) {
    let cell = Cell::new();
    let mut made = job(&Spec::of(child), &cell, shared);
    if child.derived {
        made = made.with_context(ctx);
    }
    let id = made.id();
    let handle = match submit(shared, &shared.submitter, child.form, made, accepted) {
        Ok(handle) => {
            if child.waited {
                handle.wait();
                if cell.drops.load(Ordering::SeqCst) != 1 {
                    shared.wrong("a nested job was waited for, but what it captured is there");
                }
            }
            Some(handle)
        }
        Err(refused) => {
            put_away(refused);
            None
        }
    };
    if handle.is_some() != accepted {
        shared.wrong(format!("nested job accepted: {}, not {accepted}", handle.is_some()));
    }
    lock(&shared.born).push(Born { number, id, handle, cell });
}

/// Submits. Where it must be accepted, a worker may still be on its way to take what is in the queue.
pub(crate) fn submit(
    shared: &Shared,
    submitter: &Submitter,
    form: Form,
    mut job: Job,
    accepted: bool,
) -> Result<JobHandle, SubmitError> {
    let start = Instant::now();
    loop {
        let submitted = match form {
            Form::Submit => submitter.submit(job),
            Form::Try => submitter.try_submit(job),
            Form::Timeout(limit) => submitter.submit_timeout(job, duration(limit)),
            Form::Deadline(limit) => submitter.submit_deadline(job, instant(limit)),
        };
        job = match submitted {
            Err(SubmitError::Full(job) | SubmitError::Timeout(job))
                if accepted && start.elapsed() < PATIENCE =>
            {
                job
            }
            other => return other,
        };
        shared.extra.fetch_add(1, Ordering::SeqCst);
        thread::yield_now();
    }
}
