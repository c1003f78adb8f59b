//! A submitted job: one shared cell from its submission until the last handle or record of it is dropped.
//!
//! 1. `state` says who may touch the rest. It leaves `QUEUED` once, under the lock of `held`: whoever takes it out owns the
//!    operation and the context, and has the duty to finish the job.
//! 2. To finish is: drop the captures, [`settle`](Task::settle) the outcome, and file the job with its owner, who
//!    [publishes](Task::publish) it in the step in which its registry takes the record, and then [wakes](Task::wake) those
//!    who wait. So who sees a finished state finds the record filed and the captures gone; but for what the timer leaves of a
//!    job that it ends, which the first who looks drops, and who [waits](Task::wait_until) waits for.
//! 3. A waiter raises `WAITED` under the lock of `held` before it parks, and looks at the state as it does so; `publish`
//!    changes the state and reads the flag in one step. Either the waiter sees the end or the publisher sees the waiter.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::clock::{Tick, WallOffset};
use crate::context::{Action, Context, End, Ended, Listening, Scope};
use crate::driver;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind};
use crate::extras::{Extras, Place};
use crate::id::JobId;
use crate::inbox::Inbox;
use crate::job::{Job, Run};
use crate::notes::Noted;
use crate::panics::{self, discard};
use crate::periodic::{DueTick, Series};
use crate::priority::Level;
use crate::provenance::{Cancel, Cancelled};
use crate::retry::Tries;
use crate::state::JobState;
use crate::sync::{
    self, Arc, AtomicU8, AtomicU32, AtomicU64, Mutex, OnceLock, Ordering, Thread, Unshared, Weak,
};

/// The states as bytes. `ENDING` looks queued from outside: the job will not start any more but its captures are not
/// dropped yet.
const QUEUED: u8 = 0;
const ENDING: u8 = 1;
const RUNNING: u8 = 2;
const COMPLETED: u8 = 3;
const FAILED: u8 = 4;
const PANICKED: u8 = 5;
const CANCELLED: u8 = 6;
const TIMED_OUT: u8 = 7;
const STATE: u8 = 0b0000_0111;

/// Somebody waits and must be woken.
const WAITED: u8 = 0b0001_0000;

/// The timer ended the job, or is about to, and whoever looks next drops the captures. Set until they are dropped; in
/// `ended`, for good.
const LEFTOVERS: u8 = 0b0010_0000;

/// The job is queued to all purposes but that no worker may have it yet: its time has not come.
const LATER: u8 = 0b0100_0000;

/// Only where the state to come is kept: the operation has said something.
const NOTED: u8 = 0b1000_0000;
/// Beside the state to come, in `ended`: `held` has what is to be told of earlier attempts.
const TRIED: u8 = 0b0000_1000;

/// The job has a key, and may not start yet because of it. Worth nothing once the job is not queued any more.
const HELD: u8 = 0b1000_0000;

/// How old a reading of the clock may be that is good enough for deadlines further away than this.
const NEAR: Duration = Duration::from_millis(10);

const NO_WORKER: u32 = u32::MAX;

/// The order of the fields is that of their use, in groups of 64 bytes on 64-bit machines: with the reference counts, what
/// only submitters and readers of records touch; what a worker takes and gives; the rest. So a worker that runs a job
/// fetches two or three cache lines of it, and none of them is the one with the counts.
#[repr(C)]
pub(crate) struct Task {
    pub(crate) id: JobId,
    pub(crate) name: Cow<'static, str>,
    pub(crate) wall: WallOffset,

    held: Mutex<Held>,

    pub(crate) deadline: Tick,
    state: AtomicU8,
    /// The state to come, once there is an outcome, and `NOTED`.
    ended: AtomicU8,
    /// The deadline is a default of the delegator's, not the job's own.
    by_default: bool,
    /// Which worker runs or ran it.
    worker: AtomicU32,
    pub(crate) created: Tick,
    /// `NEVER` until the operation starts. Written by the claimer, before the outcome.
    started: AtomicU64,
    outcome: OnceLock<Outcome>,

    /// Who keeps its record and knows what runs.
    owner: Option<Weak<Engine>>,
}

struct Held {
    /// Gone once claimed, but for what the timer left.
    operation: Option<Box<dyn Run>>,
    context: Context,
    extras: Option<Box<Extras>>,
    waiters: Option<Box<Waiters>>,
}

#[derive(Default)]
struct Waiters(Vec<Waiter>);

enum Waiter {
    Thread(Thread),
    /// Somebody who waits for many jobs, and the number of this one.
    Inbox {
        inbox: Arc<Inbox>,
        number: u64,
        _listening: Option<Listening>,
    },
    Series(Arc<Series>),
    /// The two ends of what `done()` gave: dropping the sender tells.
    Channel {
        _sender: Sender<Infallible>,
        receiver: Receiver<Infallible>,
        _listening: Option<Listening>,
    },
}

/// How a job ended.
pub(crate) struct Outcome {
    pub(crate) completed: Tick,
    pub(crate) result: Result<Vec<u8>, Error>,
    /// The operation that was run, if it is plain. Its memory goes back with the cell to a submitter, which will want the
    /// same again.
    pub(crate) spent: Unshared<Option<Box<dyn Run>>>,
}

/// What a claimer gets.
pub(crate) enum Claim {
    /// The job is running, on the claimer.
    Run(Captures),
    /// Its context was done before it started: to be ended by the claimer.
    End(Captures, End),
    /// The delegator has stopped: to be handed back by the claimer.
    Stopped(Captures),
    /// Somebody else has it, or it has ended, or may not start yet. What the timer left is to be dropped.
    Gone(Option<Captures>),
}

/// What a job brought along: user values, to be dropped with care.
pub(crate) struct Captures {
    pub(crate) operation: Box<dyn Run>,
    pub(crate) context: Context,
    pub(crate) extras: Option<Box<Extras>>,
}

impl Captures {
    pub(crate) fn has_key(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.key.is_some())
    }
}

impl Task {
    pub(crate) fn new(job: Job, by_default: bool, owner: Weak<Engine>) -> Task {
        let Job { id, name, created, wall, operation, context, extras } = job;
        Task {
            id,
            name,
            wall,
            deadline: context.deadline_tick(),
            held: Mutex::new(Held {
                operation: Some(operation.into_inner()),
                context,
                extras,
                waiters: None,
            }),
            state: AtomicU8::new(QUEUED),
            ended: AtomicU8::new(QUEUED),
            by_default,
            worker: AtomicU32::new(NO_WORKER),
            created,
            started: AtomicU64::new(Tick::NEVER.bits()),
            outcome: OnceLock::new(),
            owner: Some(owner),
        }
    }

    /// Makes the cell of an evicted record the cell of this job.
    pub(crate) fn refill(&mut self, job: Job, by_default: bool, owner: &Weak<Engine>) {
        let Job { id, name, created, wall, operation, context, extras } = job;
        self.id = id;
        self.name = name;
        self.wall = wall;
        self.deadline = context.deadline_tick();
        let held = self.held.get_mut();
        held.waiters = None;
        if let Some(leftovers) = held.take() {
            discard("an evicted record", leftovers);
        }
        held.operation = Some(operation.into_inner());
        held.context = context;
        // What is left there has nothing of the user's: records with errors are not filled again.
        held.extras = extras;
        self.state.store(QUEUED, Ordering::Relaxed);
        self.by_default = by_default;
        self.worker.store(NO_WORKER, Ordering::Relaxed);
        self.created = created;
        self.started.store(Tick::NEVER.bits(), Ordering::Relaxed);
        if let Some(Outcome { result, spent, .. }) = self.outcome.take() {
            drop(spent.into_inner());
            if let Err(error) = result {
                discard("an evicted record", error);
            }
        }
        if self.owner.as_ref().is_none_or(|own| !Weak::ptr_eq(own, owner)) {
            self.owner = Some(Weak::clone(owner));
        }
    }

    /// The job again, as it was before it was made a task.
    pub(crate) fn into_job(mut self: Arc<Self>) -> Option<Job> {
        let captures = Arc::get_mut(&mut self)?.held.get_mut().take()?;
        Some(self.rebuild(captures))
    }

    /// A job with the same identity around what a claimer took.
    pub(crate) fn rebuild(&self, captures: Captures) -> Job {
        let Captures { operation, mut context, mut extras } = captures;
        if let Some(extras) = &mut extras {
            extras.listening = None;
            if let Some(retry) = &mut extras.retry {
                retry.scoped = false;
                extras.tries = self.tries();
                extras.tries.gave_up = None;
            }
        }
        if self.by_default {
            context.lift_deadline();
        }
        let operation = Unshared::new(operation);
        Job {
            id: self.id,
            name: self.name.clone(),
            created: self.created,
            wall: self.wall,
            operation,
            context,
            extras,
        }
    }

    pub(crate) fn owner(&self) -> Option<Arc<Engine>> {
        self.owner.as_ref()?.upgrade()
    }

    /// Whether this is the owner; an address is compared, nothing is counted.
    pub(crate) fn is_owned_by(&self, owner: &Arc<Engine>) -> bool {
        self.owner.as_ref().is_some_and(|own| std::ptr::addr_eq(Weak::as_ptr(own), Arc::as_ptr(owner)))
    }

    /// The context of a job that is not claimed yet.
    pub(crate) fn context(&self) -> Context {
        self.held.lock().context.clone()
    }

    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    pub(crate) fn take_outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    pub(crate) fn started(&self) -> Option<Tick> {
        let started = Tick::from_bits(self.started.load(Ordering::Relaxed));
        (started != Tick::NEVER).then_some(started)
    }

    pub(crate) fn worker(&self) -> Option<usize> {
        let worker = self.worker.load(Ordering::Relaxed);
        (worker != NO_WORKER).then_some(worker as usize)
    }

    /// Whether it is finished and the timer left nothing.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.state.load(Ordering::Acquire);
        state & STATE >= COMPLETED && state & LEFTOVERS == 0
    }

    /// Whether it waits for a worker.
    pub(crate) fn is_queued(&self) -> bool {
        self.state.load(Ordering::Acquire) & (STATE | LATER | HELD) == QUEUED
    }

    /// Whether it waits for its key.
    pub(crate) fn is_held(&self) -> bool {
        self.state.load(Ordering::Acquire) & (STATE | LATER | HELD) == QUEUED | HELD
    }

    /// Whether it waits for a worker, or is with one.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.state.load(Ordering::Acquire) & STATE, QUEUED | RUNNING)
    }

    /// Whether it will not start any more, or has ended.
    pub(crate) fn is_past(&self) -> bool {
        !self.is_alive()
    }

    /// Whether it waits for a worker or for its time.
    pub(crate) fn is_waiting(&self) -> bool {
        self.state.load(Ordering::Acquire) & STATE == QUEUED
    }

    pub(crate) fn state(&self) -> JobState {
        shown(self.state.load(Ordering::Acquire))
    }

    /// Where in the queue it waits. To be asked while it does.
    pub(crate) fn level(&self) -> Level {
        self.held.lock().extras.as_ref().map_or(Level::Normal, |extras| extras.level())
    }

    /// Its key, and how many jobs may have that, if the job says. `None` once it is not queued any more.
    pub(crate) fn key(&self) -> Option<(Arc<str>, Option<usize>)> {
        let held = self.held.lock();
        let extras = held.extras.as_ref()?;
        Some((Arc::clone(extras.key.as_ref()?), extras.key_limit))
    }

    /// Marks a new job with a key: it may not start yet.
    pub(crate) fn hold(&self) {
        self.state.fetch_or(HELD, Ordering::AcqRel);
    }

    /// Its key allows it to start.
    pub(crate) fn unhold(&self) {
        let held = self.held.lock();
        if self.state.load(Ordering::Relaxed) & STATE == QUEUED {
            self.state.fetch_and(!HELD, Ordering::AcqRel);
        }
        held.nudge();
    }

    /// Has those who wait for it look again.
    pub(crate) fn nudge(&self) {
        self.held.lock().nudge();
    }

    /// What is to be told of earlier attempts.
    pub(crate) fn tries(&self) -> Tries {
        self.held.lock().extras.as_ref().map(|extras| extras.tries.clone()).unwrap_or_default()
    }

    /// Whether there is anything to be told of earlier attempts of a settled job.
    pub(crate) fn was_retried(&self) -> bool {
        self.ended.load(Ordering::Relaxed) & TRIED != 0
    }

    /// How often it has been started.
    pub(crate) fn attempts(&self) -> u32 {
        let held = self.held.lock();
        let earlier = held.extras.as_ref().map_or(0, |extras| extras.tries.earlier);
        earlier.saturating_add(u32::from(self.started().is_some()))
    }

    /// Whether a job that was not queued, and on no worker, is to be looked for again: it has gone back to wait for its next
    /// attempt, or on to another than the one that began at this tick.
    pub(crate) fn has_moved_on(&self, begun: Option<Tick>) -> bool {
        // Not half of it: see `put_back`.
        let _held = self.held.lock();
        self.is_waiting() || self.started() != begun
    }

    /// Changes what is told of the attempts. Called by who has claimed the job.
    pub(crate) fn note_tries<T>(&self, note: impl FnOnce(&mut Tries) -> T) -> T {
        let mut held = self.held.lock();
        let noted = note(&mut held.extras.get_or_insert_default().tries);
        self.ended.store(TRIED, Ordering::Relaxed);
        noted
    }

    /// Makes a running job one that waits for its time again.
    pub(crate) fn put_back(&self, captures: Captures, place: Place) {
        let Captures { operation, context, extras } = captures;
        let mut held = self.held.lock();
        let tries = held.extras.take().map(|extras| extras.tries).unwrap_or_default();
        held.operation = Some(operation);
        held.context = context;
        held.extras = extras;
        let extras = held.extras.get_or_insert_default();
        (extras.tries, extras.place) = (tries, Some(place));
        self.forget_start();
        let waited = self.state.load(Ordering::Relaxed) & WAITED;
        let hold = if held.extras.as_ref().is_some_and(|extras| extras.key.is_some()) { HELD } else { 0 };
        self.state.store(QUEUED | LATER | hold | waited, Ordering::Release);
    }

    /// It has not started: what it had of that is in its attempts. Called by who has claimed the job.
    pub(crate) fn forget_start(&self) {
        self.started.store(Tick::NEVER.bits(), Ordering::Relaxed);
        self.worker.store(NO_WORKER, Ordering::Relaxed);
    }

    /// Has the end of the context of a job that was put back end it at once, for as long as nobody has claimed it: those who
    /// wait for it began to when it was running, and do not listen.
    pub(crate) fn listen_while_it_waits(self: &Arc<Self>) {
        let listening = self.end_with(self.context());
        let mut held = self.held.lock();
        let replaced = match &mut held.extras {
            Some(extras) if self.is_waiting() => extras.listening.replace(listening),
            _ => Some(listening),
        };
        drop(held);
        drop(replaced);
    }

    /// Makes a new job one that waits for its time.
    pub(crate) fn schedule(&self, place: Place) {
        let mut held = self.held.lock();
        held.extras.get_or_insert_default().place = Some(place);
        self.state.fetch_or(LATER, Ordering::AcqRel);
    }

    /// Has a cancel of the context of a scheduled job end it at once.
    pub(crate) fn listen_while_scheduled(self: &Arc<Self>) {
        let context = self.context();
        let task = Arc::downgrade(self);
        let listening = context.listen(Action::EndJob(Box::new(move |ended| {
            if let Some(task) = task.upgrade() {
                task.context_ended(ended);
                discard("a finished job", task);
            }
        })));
        discard("the context of a scheduled job", context);
        let mut held = self.held.lock();
        let scheduled = self.state.load(Ordering::Relaxed) & (STATE | LATER) == QUEUED | LATER;
        match &mut held.extras {
            Some(extras) if scheduled => extras.listening = listening,
            _ => {
                drop(held);
                drop(listening);
            }
        }
    }

    /// The time of a scheduled job has come: it waits for a worker from now on. `false` if it has ended. What it listened
    /// with is for the caller to drop.
    pub(crate) fn release(&self) -> (bool, Option<Listening>) {
        let mut held = self.held.lock();
        let state = self.state.load(Ordering::Relaxed);
        if state & (STATE | LATER) != QUEUED | LATER {
            return (false, None);
        }
        let listening = held.extras.as_mut().and_then(|extras| {
            extras.place = None;
            // One that was put back goes on to listen.
            if extras.tries.earlier > 0 { None } else { extras.listening.take() }
        });
        self.state.fetch_and(!LATER, Ordering::AcqRel);
        // A worker that waits for it may run it now.
        held.nudge();
        (true, listening)
    }

    /// How a job with an outcome ended; known before its state says so.
    pub(crate) fn ended(&self) -> JobState {
        state_of(self.ended.load(Ordering::Relaxed) & STATE)
    }

    /// Takes the job to run it on this worker, unless its context or the host scope is done. `has_seat`: whether it has
    /// what it needs of its key; it is asked under the lock, for what it says holds only while nobody else can run the
    /// job.
    pub(crate) fn claim(
        &self,
        worker: usize,
        now: Tick,
        host: &Arc<Scope>,
        has_seat: impl FnOnce() -> bool,
    ) -> Claim {
        let mut held = self.held.lock();
        let state = self.state.load(Ordering::Relaxed);
        if state & STATE != QUEUED {
            return Claim::Gone(held.take());
        }
        if state & LATER != 0 || (state & HELD != 0 && !has_seat()) {
            // The place that it had before somebody who waits for it ran it: that attempt has failed, and now it waits
            // for its time, or another has its key.
            return Claim::Gone(None);
        }
        // `now` may be a little old; that matters to a deadline that is near.
        let near = self.deadline <= now.after(NEAR);
        let end = if near || held.context.is_done_at(now) { held.context.end_of_queued() } else { None };
        let Some(captures) = held.take() else { return Claim::Gone(None) };
        let (claim, next) = match end {
            Some(end) => (Claim::End(captures, end), ENDING),
            None if host.is_cancelled() => (Claim::Stopped(captures), ENDING),
            None => {
                self.started.store(now.bits(), Ordering::Relaxed);
                self.worker.store(worker.try_into().unwrap_or(NO_WORKER), Ordering::Relaxed);
                (Claim::Run(captures), RUNNING)
            }
        };
        self.state.store(next | (state & WAITED), Ordering::Release);
        claim
    }

    /// Takes a queued job out of the running. `None` if it is not queued.
    pub(crate) fn withdraw(&self) -> Option<Captures> {
        self.take_queued(|_| Some(())).map(|(captures, ())| captures)
    }

    /// Takes a queued job that `decide` wants to end; a decision under the lock, so it must not run user code.
    fn take_queued<T>(&self, decide: impl FnOnce(&Context) -> Option<T>) -> Option<(Captures, T)> {
        let mut held = self.held.lock();
        let state = self.state.load(Ordering::Relaxed);
        if state & STATE != QUEUED {
            return None;
        }
        let decision = decide(&held.context)?;
        let mut captures = held.take()?;
        self.state.store(ENDING | (state & WAITED), Ordering::Release);
        drop(held);
        if let Some(place) = captures.extras.as_mut().and_then(|extras| extras.place.take()) {
            if let Some(owner) = self.owner() {
                owner.forget(place);
            }
        }
        if captures.has_key() {
            if let Some(owner) = self.owner() {
                owner.leave_key(self.id, false);
            }
        }
        Some((captures, decision))
    }

    /// Ends a queued job whose context is done, and drops what the timer left of a finished one. Whoever looks at a job
    /// calls this, and goes by the state that it gives: one loaded afterwards could be finished with captures still there.
    pub(crate) fn look(self: &Arc<Self>) -> JobState {
        let state = self.state.load(Ordering::Acquire);
        if state & STATE == QUEUED {
            if let Some((captures, end)) = self.take_queued(Context::end_of_queued) {
                self.end_claimed(captures, end);
                return self.state();
            }
        } else if state & STATE >= COMPLETED && state & LEFTOVERS != 0 {
            let leftovers = self.held.lock().take();
            self.drop_leftovers(leftovers);
        }
        shown(state)
    }

    /// Drops what the timer left, if it was left to the caller, and tells those who wait for that.
    pub(crate) fn drop_leftovers(&self, leftovers: Option<Captures>) {
        let Some(leftovers) = leftovers else { return };
        discard(format_args!("what job {} captured", self.id), leftovers);
        let state = self.state.fetch_and(!LEFTOVERS, Ordering::AcqRel);
        if state & STATE >= COMPLETED && state & WAITED != 0 {
            self.wake();
        }
    }

    /// Cancels a job that has not started. `None` if it has.
    pub(crate) fn cancel_queued(self: &Arc<Self>, cancel: Arc<Cancel>) -> Result<(), Arc<Cancel>> {
        match self.withdraw() {
            Some(captures) => {
                self.end_claimed(captures, End::Cancel(Cancelled::now(cancel)));
                Ok(())
            }
            None => Err(cancel),
        }
    }

    /// Finishes a job that was taken out of the queue without being run.
    pub(crate) fn end_claimed(self: &Arc<Self>, captures: Captures, end: End) {
        discard(format_args!("what job {} captured", self.id), captures);
        self.finish_unstarted(end);
    }

    /// Finishes a job whose captures are somebody else's by now.
    pub(crate) fn finish_unstarted(self: &Arc<Self>, end: End) {
        let state = match end {
            End::Deadline(_) => JobState::TimedOut,
            End::Cancel(_) => JobState::Cancelled,
        };
        self.settle(
            state,
            Outcome {
                completed: Tick::now().max(self.created),
                result: Err(end.into()),
                spent: Unshared::default(),
            },
            false,
        );
        match self.owner() {
            Some(owner) => owner.file(Arc::clone(self)),
            // Only after the delegator is gone for good, when nobody keeps records any more.
            None => {
                if self.publish() {
                    self.wake();
                }
            }
        }
    }

    /// What a listener does: as `look`, but on the timer thread the captures stay where they are.
    fn context_ended(self: &Arc<Self>, ended: Ended) {
        if ended == Ended::ByCancel {
            self.look();
            return;
        }
        let (end, place, has_key) = {
            let mut held = self.held.lock();
            let state = self.state.load(Ordering::Relaxed);
            if state & STATE != QUEUED {
                return;
            }
            let Some(end) = held.context.end_of_queued() else { return };
            self.ended.fetch_or(LEFTOVERS, Ordering::Relaxed);
            self.state.store(ENDING | LEFTOVERS | (state & WAITED), Ordering::Release);
            let extras = held.extras.as_mut();
            let has_key = extras.as_ref().is_some_and(|extras| extras.key.is_some());
            (end, extras.and_then(|extras| extras.place.take()), has_key)
        };
        if place.is_some() {
            if let Some(owner) = self.owner() {
                // A worker drops the captures, when the agenda comes to its deadline.
                owner.forget_later();
            }
        }
        if has_key {
            if let Some(owner) = self.owner() {
                owner.leave_key(self.id, true);
            }
        }
        self.finish_unstarted(end);
    }

    /// What the timer thread does, for the models.
    #[cfg(all(test, loom))]
    pub(crate) fn timer_fired(self: &Arc<Self>) {
        self.context_ended(Ended::AtDeadline);
    }

    /// Keeps what the operation, which has returned, said at last.
    pub(crate) fn note(&self, noted: Noted) {
        self.held.lock().extras.get_or_insert_default().noted = Some(noted);
    }

    /// What the operation said at last, once it has returned.
    pub(crate) fn last_noted(&self) -> Option<Noted> {
        self.held.lock().extras.as_ref()?.noted.clone()
    }

    /// The same, without a lock where it has said nothing.
    pub(crate) fn outcome_noted(&self) -> Option<Noted> {
        if self.ended.load(Ordering::Relaxed) & NOTED == 0 { None } else { self.last_noted() }
    }

    /// The bytes of what the operation said, once there is an outcome.
    pub(crate) fn noted_bytes(&self) -> usize {
        if self.ended.load(Ordering::Relaxed) & NOTED == 0 {
            return 0;
        }
        let held = self.held.lock();
        held.extras.as_ref().and_then(|extras| extras.noted.as_ref()).map_or(0, Noted::bytes)
    }

    /// Fixes the outcome and announces it. The caller has claimed the job and dropped its captures, and says whether
    /// there is something [noted](Task::note). `true` if a logger was called.
    pub(crate) fn settle(&self, state: JobState, outcome: Outcome, noted: bool) -> bool {
        let level = match state {
            JobState::Panicked => log::Level::Error,
            JobState::Completed if outcome.completed <= self.deadline => log::Level::Debug,
            _ => log::Level::Warn,
        };
        let kept = self.ended.load(Ordering::Relaxed) & (TRIED | LEFTOVERS);
        self.ended.store(code_of(state) | kept | if noted { NOTED } else { 0 }, Ordering::Relaxed);
        // Nobody else sets it: a job is claimed once.
        let _ = self.outcome.set(outcome);
        let announced = panics::may_be_logged(level);
        if announced {
            panics::log_about(level, format_args!("{self}"), self);
        }
        announced
    }

    /// Makes a settled job finished. `true` if somebody waits for it and must be woken.
    pub(crate) fn publish(&self) -> bool {
        let ended = self.ended.load(Ordering::Relaxed);
        let before = if ended & LEFTOVERS == 0 {
            self.state.swap(ended & STATE, Ordering::AcqRel)
        } else {
            // Whether they have been dropped meanwhile stays as it is.
            self.state.fetch_xor(ENDING ^ (ended & STATE), Ordering::AcqRel)
        };
        before & WAITED != 0
    }

    #[cold]
    pub(crate) fn wake(&self) {
        let waiters = self.held.lock().waiters.take();
        for waiter in waiters.into_iter().flat_map(|waiters| waiters.0) {
            match waiter {
                Waiter::Thread(thread) => thread.unpark(),
                Waiter::Inbox { inbox, number, .. } => inbox.put(number),
                Waiter::Series(series) => {
                    series.job_ended();
                    discard("a periodic job", series);
                }
                channel @ Waiter::Channel { .. } => drop(channel),
            }
        }
    }

    /// Waits until the job is finished or `until` is reached, and says whether it is. While the job is queued, its own
    /// deadline and a cancel of its context end it on time, whatever the workers do.
    ///
    /// `inline`: it also returns, with `false`, when the caller could run it.
    pub(crate) fn wait_until(self: &Arc<Self>, until: Tick, inline: bool) -> bool {
        loop {
            if self.look_for_end() {
                return true;
            }
            if until != Tick::NEVER && until <= Tick::now() {
                return false;
            }
            if self.add_waiter(Waiter::Thread(sync::current())) {
                break;
            }
        }
        let listening = self.is_waiting().then(|| self.listen()).flatten();
        let mut parked = false;
        let finished = loop {
            if self.look_for_end() {
                break true;
            }
            if (until != Tick::NEVER && until <= Tick::now()) || (inline && self.is_queued()) {
                break false;
            }
            // Something may have changed about its key.
            if inline && parked && self.is_held() {
                break false;
            }
            parked = true;
            let wake_at = if self.is_waiting() { until.min(self.deadline) } else { until };
            driver::park_until(
                wake_at,
                Some(self.owner.as_ref().map_or(std::ptr::null(), |own| Weak::as_ptr(own).cast())),
            );
        };
        drop(listening);
        if !finished {
            let me = sync::current().id();
            if let Some(waiters) = &mut self.held.lock().waiters {
                waiters.0.retain(|waiter| !matches!(waiter, Waiter::Thread(thread) if thread.id() == me));
            }
        }
        finished
    }

    /// Looks, and says whether the job is finished and nobody is still dropping what the timer left.
    fn look_for_end(self: &Arc<Self>) -> bool {
        self.look().is_finished() && self.is_over()
    }

    /// `false` if the job is finished: then nobody would wake the waiter, unless somebody drops what the timer left.
    fn add_waiter(&self, waiter: Waiter) -> bool {
        let mut held = self.held.lock();
        let state = self.state.fetch_or(WAITED, Ordering::AcqRel);
        if state & STATE >= COMPLETED && (state & LEFTOVERS == 0 || held.operation.is_some()) {
            return false;
        }
        held.waiters.get_or_insert_default().0.push(waiter);
        true
    }

    /// Has the series told when the job is finished. `false` if it is.
    pub(crate) fn tell_when_finished(&self, series: &Arc<Series>) -> bool {
        self.add_waiter(Waiter::Series(Arc::clone(series)))
    }

    fn listen(self: &Arc<Self>) -> Option<Listening> {
        let context = self.context();
        let listening = context.listen(Action::Wake(sync::current()));
        discard("the context of a queued job", context);
        listening
    }

    /// A receiver that disconnects when the job is finished.
    pub(crate) fn done(self: &Arc<Self>) -> Receiver<Infallible> {
        self.look();
        let context = {
            let held = self.held.lock();
            let known = held.waiters.iter().flat_map(|waiters| &waiters.0).find_map(|waiter| match waiter {
                Waiter::Channel { receiver, .. } => Some(receiver.clone()),
                Waiter::Thread(_) | Waiter::Inbox { .. } | Waiter::Series(_) => None,
            });
            if let Some(receiver) = known {
                return receiver;
            }
            self.is_waiting().then(|| held.context.clone())
        };
        let listening = context.map(|context| self.end_with(context));
        let (sender, receiver) = bounded(0);
        self.add_waiter(Waiter::Channel {
            _sender: sender,
            receiver: receiver.clone(),
            _listening: listening,
        });
        receiver
    }

    /// Has the job put this number into the inbox when it is finished. If it is queued and its context may end at
    /// another time than `watched`, which the owner of the inbox looks after, it ends by itself.
    pub(crate) fn report_to(self: &Arc<Self>, inbox: &Arc<Inbox>, number: u64, watched: &Context) {
        let context = {
            let held = self.held.lock();
            (self.is_waiting() && !held.context.ends_with(watched)).then(|| held.context.clone())
        };
        let listening = context.map(|context| self.end_with(context));
        if !self.add_waiter(Waiter::Inbox { inbox: Arc::clone(inbox), number, _listening: listening }) {
            inbox.put(number);
        }
    }

    /// Ends the job when its context is done, if it is still queued then.
    fn end_with(self: &Arc<Self>, context: Context) -> Listening {
        let task = Arc::downgrade(self);
        let listening = context.listen_to_the_end(Action::EndJob(Box::new(move |ended| {
            if let Some(task) = task.upgrade() {
                task.context_ended(ended);
                discard("a finished job", task);
            }
        })));
        discard("the context of a queued job", context);
        listening
    }

    pub(crate) fn queue_time(&self) -> Duration {
        let left = self.started().or_else(|| self.outcome().map(|outcome| outcome.completed));
        left.unwrap_or_else(Tick::now).since(self.created).unwrap_or_default()
    }

    pub(crate) fn run_time(&self) -> Duration {
        let Some(started) = self.started() else {
            return Duration::ZERO;
        };
        let ended = self.outcome().map_or_else(Tick::now, |outcome| outcome.completed);
        ended.since(started).unwrap_or_default()
    }

    /// By how much the operation ran past the deadline, if it did.
    pub(crate) fn overrun(&self) -> Option<Duration> {
        self.started()?;
        if self.deadline == Tick::NEVER {
            return None;
        }
        self.outcome()?.completed.since(self.deadline)
    }

    pub(crate) fn round_trip_time(&self) -> Duration {
        let ended = self.outcome().map_or_else(Tick::now, |outcome| outcome.completed);
        ended.since(self.created).unwrap_or_default()
    }
}

/// The line that announces a job with an outcome.
impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {} {:?} {}", self.id, self.name, self.ended())?;
        let tries = if self.was_retried() { self.tries() } else { Tries::default() };
        match (self.worker(), tries.earlier) {
            (Some(worker), _) => write!(f, " on worker {worker}")?,
            (None, _) if self.started().is_some() => f.write_str(" in its caller")?,
            (None, 0) => f.write_str(" before it started")?,
            (None, earlier) => write!(f, " after attempt {earlier}")?,
        }
        if tries.earlier > 0 && self.started().is_some() {
            write!(f, ", in attempt {}", tries.earlier + 1)?;
        }
        match self.started() {
            Some(_) => write!(f, ": ran {:.1?}", self.run_time())?,
            None => f.write_str(": ran 0ns")?,
        }
        write!(f, ", round trip {:.1?}", self.round_trip_time())?;
        if let Some(overrun) = self.overrun() {
            write!(f, ", {overrun:.1?} past its deadline")?;
        }
        if let Some(Outcome { completed, result: Err(error), .. }) = self.outcome() {
            f.write_str(": ")?;
            match error.kind() {
                ErrorKind::Cancelled => error.write_chain(f, Some(*completed))?,
                _ => write!(f, "{error}")?,
            }
        }
        // The errors of the others say it themselves.
        if let JobState::Failed | JobState::Panicked = self.ended() {
            if let (Some(note), Some(outcome)) =
                (self.outcome_noted().and_then(|noted| noted.checkpoint), self.outcome())
            {
                write!(f, "; {}", note.as_of(outcome.completed))?;
            }
        }
        if let Some(why) = tries.gave_up {
            write!(f, "; not tried again: {why}")?;
        }
        Ok(())
    }
}

fn shown(state: u8) -> JobState {
    if state & (STATE | LATER) == QUEUED | LATER { JobState::Scheduled } else { state_of(state & STATE) }
}

fn state_of(code: u8) -> JobState {
    match code {
        QUEUED | ENDING => JobState::Queued,
        RUNNING => JobState::Running,
        COMPLETED => JobState::Completed,
        FAILED => JobState::Failed,
        PANICKED => JobState::Panicked,
        CANCELLED => JobState::Cancelled,
        _ => JobState::TimedOut,
    }
}

fn code_of(state: JobState) -> u8 {
    match state {
        JobState::Scheduled | JobState::Queued => QUEUED,
        JobState::Running => RUNNING,
        JobState::Completed => COMPLETED,
        JobState::Failed => FAILED,
        JobState::Panicked => PANICKED,
        JobState::Cancelled => CANCELLED,
        JobState::TimedOut => TIMED_OUT,
    }
}

impl Captures {
    /// What is to be done instead of running the operation, if this is no job at all.
    pub(crate) fn tick(&self) -> Option<&DueTick> {
        self.extras.as_ref()?.tick.as_ref()
    }
}

impl Held {
    /// Wakes those who wait, to look again.
    fn nudge(&self) {
        for waiter in self.waiters.iter().flat_map(|waiters| &waiters.0) {
            match waiter {
                Waiter::Thread(thread) => thread.unpark(),
                Waiter::Inbox { inbox, .. } => inbox.nudge(),
                Waiter::Series(_) | Waiter::Channel { .. } => {}
            }
        }
    }

    fn take(&mut self) -> Option<Captures> {
        let operation = self.operation.take()?;
        let mut extras = self.extras.take();
        if let Some(extras) = &mut extras {
            self.extras = extras.split_tries();
        }
        Some(Captures { operation, context: std::mem::take(&mut self.context), extras })
    }
}
