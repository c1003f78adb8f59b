//! A submitted job: one shared cell from its submission until the last handle or record of it is dropped.
//!
//! 1. `state` says who may touch the rest. It leaves `QUEUED` once, under the lock of `held`: whoever takes it out owns the
//!    operation and the context, and has the duty to finish the job.
//! 2. To finish is: drop the captures, [`settle`](Task::settle) the outcome, file it with the owner, and
//!    [`publish`](Task::publish) the state, in this order. So who sees a finished state finds the record filed and the
//!    captures gone.
//! 3. A waiter raises `WAITED` under the lock of `held` before it parks, and looks at the state as it does so; `publish`
//!    changes the state and reads the flag in one step. Either the waiter sees the end or the publisher sees the waiter.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::OnceLock;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::clock::{Tick, WallOffset};
use crate::context::{Context, End, Ended, Listening, Scope};
use crate::error::{Cause, Error};
use crate::id::JobId;
use crate::job::{Job, Operation};
use crate::panics::{self, discard};
use crate::state::JobState;
use crate::sync::{self, Arc, AtomicU8, AtomicU32, AtomicU64, Mutex, Ordering, Thread, Weak};

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

/// The timer ended the job; whoever looks next drops the captures.
const LEFTOVERS: u8 = 0b0010_0000;

const NO_WORKER: u32 = u32::MAX;

/// Where a job belongs: who keeps its record and knows what runs.
pub(crate) trait Owner: Send + Sync {
    /// Counts a job whose outcome is settled and keeps its record.
    fn file(&self, task: &Arc<Task>);

    /// Cancels the context of a running job. `false` if its operation has returned.
    fn cancel_running(&self, task: &Arc<Task>, cause: Option<Cause>) -> bool;
}

pub(crate) struct Task {
    pub(crate) id: JobId,
    pub(crate) name: Cow<'static, str>,
    pub(crate) created: Tick,
    pub(crate) wall: WallOffset,
    pub(crate) deadline: Tick,
    owner: Option<Weak<dyn Owner>>,
    /// `NEVER` until the operation starts. Written by the claimer, before the outcome.
    started: AtomicU64,
    /// Which worker runs or ran it.
    worker: AtomicU32,
    state: AtomicU8,
    outcome: OnceLock<Outcome>,
    held: Mutex<Held>,
}

struct Held {
    /// Gone once claimed, but for what the timer left.
    operation: Option<Box<dyn Operation>>,
    context: Context,
    waiters: Vec<Waiter>,
}

enum Waiter {
    Thread(Thread),
    /// The two ends of what `done()` gave: dropping the sender tells.
    Channel {
        _sender: Sender<Infallible>,
        receiver: Receiver<Infallible>,
        _listening: Option<Listening>,
    },
}

/// How a job ended.
pub(crate) struct Outcome {
    pub(crate) state: JobState,
    pub(crate) completed: Tick,
    pub(crate) result: Result<Vec<u8>, Error>,
}

/// What a claimer gets.
pub(crate) enum Claim {
    /// The job is running, on the claimer.
    Run(Captures),
    /// Its context was done before it started: to be ended by the claimer.
    End(Captures, End),
    /// Somebody else has it, or it has ended. What the timer left is to be dropped.
    Gone(Option<Captures>),
}

/// What a job brought along: user values, to be dropped with care.
pub(crate) struct Captures {
    pub(crate) operation: Box<dyn Operation>,
    pub(crate) context: Context,
}

impl Task {
    pub(crate) fn new(job: Job, owner: Weak<dyn Owner>) -> Task {
        let Job {
            id,
            name,
            created,
            wall,
            operation,
            context,
        } = job;
        Task {
            id,
            name,
            created,
            wall,
            deadline: context.deadline_tick(),
            owner: Some(owner),
            started: AtomicU64::new(Tick::NEVER.bits()),
            worker: AtomicU32::new(NO_WORKER),
            state: AtomicU8::new(QUEUED),
            outcome: OnceLock::new(),
            held: Mutex::new(Held {
                operation: Some(operation),
                context,
                waiters: Vec::new(),
            }),
        }
    }

    /// Makes an emptied cell the cell of this job.
    pub(crate) fn refill(&mut self, job: Job, owner: &Weak<dyn Owner>) {
        let Job {
            id,
            name,
            created,
            wall,
            operation,
            context,
        } = job;
        self.id = id;
        self.name = name;
        self.created = created;
        self.wall = wall;
        self.deadline = context.deadline_tick();
        if self.owner.as_ref().is_none_or(|own| !Weak::ptr_eq(own, owner)) {
            self.owner = Some(Weak::clone(owner));
        }
        let held = self.held.get_mut();
        held.operation = Some(operation);
        held.context = context;
    }

    /// Takes out of a finished job whatever the user put in, and leaves a cell for [`refill`](Task::refill).
    pub(crate) fn empty(&mut self) -> impl Sized + use<> {
        self.started.store(Tick::NEVER.bits(), Ordering::Relaxed);
        self.worker.store(NO_WORKER, Ordering::Relaxed);
        self.state.store(QUEUED, Ordering::Relaxed);
        let held = self.held.get_mut();
        (
            self.outcome.take(),
            std::mem::take(&mut self.name),
            held.take(),
            std::mem::take(&mut held.waiters),
        )
    }

    /// The job again, as it was before it was made a task.
    pub(crate) fn into_job(mut self: Arc<Self>) -> Option<Job> {
        let task = Arc::get_mut(&mut self)?;
        let held = task.held.get_mut();
        Some(Job {
            id: task.id,
            name: std::mem::take(&mut task.name),
            created: task.created,
            wall: task.wall,
            operation: held.operation.take()?,
            context: std::mem::take(&mut held.context),
        })
    }

    /// A job with the same identity around what a claimer took.
    pub(crate) fn rebuild(&self, captures: Captures) -> Job {
        Job {
            id: self.id,
            name: self.name.clone(),
            created: self.created,
            wall: self.wall,
            operation: captures.operation,
            context: captures.context,
        }
    }

    pub(crate) fn owner(&self) -> Option<Arc<dyn Owner>> {
        self.owner.as_ref()?.upgrade()
    }

    /// Whether this is the owner; an address is compared, nothing is counted.
    pub(crate) fn is_owned_by<T>(&self, owner: &Arc<T>) -> bool {
        self.owner
            .as_ref()
            .is_some_and(|own| std::ptr::addr_eq(Weak::as_ptr(own), Arc::as_ptr(owner)))
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

    pub(crate) fn is_finished(&self) -> bool {
        self.state.load(Ordering::Acquire) & STATE >= COMPLETED
    }

    pub(crate) fn is_queued(&self) -> bool {
        self.state.load(Ordering::Acquire) & STATE == QUEUED
    }

    pub(crate) fn state(&self) -> JobState {
        match self.state.load(Ordering::Acquire) & STATE {
            QUEUED | ENDING => JobState::Queued,
            RUNNING => JobState::Running,
            COMPLETED => JobState::Completed,
            FAILED => JobState::Failed,
            PANICKED => JobState::Panicked,
            CANCELLED => JobState::Cancelled,
            _ => JobState::TimedOut,
        }
    }

    /// Takes the job to run it on this worker, unless its context or the host scope is done.
    pub(crate) fn claim(&self, worker: usize, now: Tick, host: &Arc<Scope>) -> Claim {
        let mut held = self.held.lock();
        let state = self.state.load(Ordering::Relaxed);
        if state & STATE != QUEUED {
            return Claim::Gone(held.take());
        }
        let end = if held.context.is_done_at(now) {
            held.context.end()
        } else {
            Scope::end(host)
        };
        let next = if end.is_some() { ENDING } else { RUNNING };
        let Some(captures) = held.take() else {
            return Claim::Gone(None);
        };
        if end.is_none() {
            self.started.store(now.bits(), Ordering::Relaxed);
            self.worker
                .store(worker.try_into().unwrap_or(NO_WORKER), Ordering::Relaxed);
        }
        self.state.store(next | (state & WAITED), Ordering::Release);
        drop(held);
        match end {
            None => Claim::Run(captures),
            Some(end) => Claim::End(captures, end),
        }
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
        let captures = held.take()?;
        self.state.store(ENDING | (state & WAITED), Ordering::Release);
        Some((captures, decision))
    }

    /// Ends a queued job whose context is done, and drops what the timer left of a finished one. Whoever looks at a job
    /// calls this first.
    pub(crate) fn look(self: &Arc<Self>) {
        let state = self.state.load(Ordering::Acquire);
        if state & STATE == QUEUED {
            if let Some((captures, end)) = self.take_queued(Context::end) {
                self.end_claimed(captures, end);
            }
        } else if state & LEFTOVERS != 0 {
            let leftovers = self.held.lock().take();
            discard(format_args!("what job {} captured", self.id), leftovers);
        }
    }

    /// Cancels a job that has not started. `None` if it has.
    pub(crate) fn cancel_queued(self: &Arc<Self>, cause: Option<Cause>) -> Result<(), Option<Cause>> {
        match self.withdraw() {
            Some(captures) => {
                self.end_claimed(captures, End::Cancel(cause));
                Ok(())
            }
            None => Err(cause),
        }
    }

    /// Finishes a job that was taken out of the queue without being run.
    pub(crate) fn end_claimed(self: &Arc<Self>, captures: Captures, end: End) {
        discard(format_args!("what job {} captured", self.id), captures);
        self.finish_unstarted(end, 0);
    }

    /// Finishes a job whose captures are somebody else's by now.
    pub(crate) fn finish_unstarted(self: &Arc<Self>, end: End, flags: u8) {
        let state = match end {
            End::Deadline => JobState::TimedOut,
            End::Cancel(_) => JobState::Cancelled,
        };
        self.settle(Outcome {
            state,
            completed: Tick::now().max(self.created),
            result: Err(end.into()),
        });
        if let Some(owner) = self.owner() {
            owner.file(self);
        }
        self.publish(flags);
    }

    /// What a listener does: as `look`, but on the timer thread the captures stay where they are.
    fn context_ended(self: &Arc<Self>, ended: Ended) {
        if ended == Ended::ByCancel {
            return self.look();
        }
        let end = {
            let held = self.held.lock();
            let state = self.state.load(Ordering::Relaxed);
            if state & STATE != QUEUED {
                return;
            }
            let Some(end) = held.context.end() else { return };
            self.state.store(ENDING | (state & WAITED), Ordering::Release);
            end
        };
        self.finish_unstarted(end, LEFTOVERS);
    }

    /// Fixes the outcome and announces it. The caller has claimed the job and dropped its captures.
    pub(crate) fn settle(&self, outcome: Outcome) {
        let level = match outcome.state {
            JobState::Panicked => log::Level::Error,
            JobState::Completed if outcome.completed <= self.deadline => log::Level::Debug,
            _ => log::Level::Warn,
        };
        // Nobody else sets it: a job is claimed once.
        let _ = self.outcome.set(outcome);
        if log::log_enabled!(target: panics::LOG, level) {
            panics::log(level, format_args!("{}", crate::record::Announcement(self)));
        }
    }

    /// Makes a settled and filed job finished, and wakes who waits for it.
    pub(crate) fn publish(&self, flags: u8) {
        let state = match self.outcome.get().map(|outcome| outcome.state) {
            Some(JobState::Completed) => COMPLETED,
            Some(JobState::Failed) => FAILED,
            Some(JobState::Cancelled) => CANCELLED,
            Some(JobState::TimedOut) => TIMED_OUT,
            _ => PANICKED,
        };
        if self.state.swap(state | flags, Ordering::AcqRel) & WAITED != 0 {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        let waiters = std::mem::take(&mut self.held.lock().waiters);
        for waiter in waiters {
            match waiter {
                Waiter::Thread(thread) => thread.unpark(),
                channel @ Waiter::Channel { .. } => drop(channel),
            }
        }
    }

    /// Waits until the job is finished or `until` is reached, and says whether it is. While the job is queued, its own
    /// deadline and a cancel of its context end it on time, whatever the workers do.
    pub(crate) fn wait_until(self: &Arc<Self>, until: Tick) -> bool {
        self.look();
        if self.is_finished() {
            return true;
        }
        if until != Tick::NEVER && until <= Tick::now() {
            return false;
        }
        if !self.add_waiter(Waiter::Thread(sync::current())) {
            return true;
        }
        let listening = self.is_queued().then(|| self.listen()).flatten();
        let finished = loop {
            self.look();
            if self.is_finished() {
                break true;
            }
            if until != Tick::NEVER && until <= Tick::now() {
                break false;
            }
            let wake_at = if self.is_queued() {
                until.min(self.deadline)
            } else {
                until
            };
            sync::park_until(wake_at);
        };
        drop(listening);
        if !finished {
            let me = sync::current().id();
            self.held
                .lock()
                .waiters
                .retain(|waiter| !matches!(waiter, Waiter::Thread(thread) if thread.id() == me));
        }
        finished
    }

    /// `false` if the job is finished: then nobody would wake the waiter.
    fn add_waiter(&self, waiter: Waiter) -> bool {
        let mut held = self.held.lock();
        if self.state.fetch_or(WAITED, Ordering::AcqRel) & STATE >= COMPLETED {
            return false;
        }
        held.waiters.push(waiter);
        true
    }

    fn listen(self: &Arc<Self>) -> Option<Listening> {
        let context = self.context();
        let listening = context.listen(crate::context::Action::Wake(sync::current()));
        discard("the context of a queued job", context);
        listening
    }

    /// A receiver that disconnects when the job is finished.
    pub(crate) fn done(self: &Arc<Self>) -> Receiver<Infallible> {
        self.look();
        let (sender, receiver) = bounded(0);
        let context = {
            let held = self.held.lock();
            let known = held.waiters.iter().find_map(|waiter| match waiter {
                Waiter::Channel { receiver, .. } => Some(receiver.clone()),
                Waiter::Thread(_) => None,
            });
            if let Some(receiver) = known {
                return receiver;
            }
            self.is_queued().then(|| held.context.clone())
        };
        let listening = context.map(|context| {
            let task = Arc::downgrade(self);
            let listening = context.listen_to_the_end(Box::new(move |ended| {
                if let Some(task) = task.upgrade() {
                    task.context_ended(ended);
                }
            }));
            discard("the context of a queued job", context);
            listening
        });
        self.add_waiter(Waiter::Channel {
            _sender: sender,
            receiver: receiver.clone(),
            _listening: listening,
        });
        receiver
    }

    pub(crate) fn queue_time(&self) -> Duration {
        let left = self
            .started()
            .or_else(|| self.outcome().map(|outcome| outcome.completed));
        left.unwrap_or_else(Tick::now)
            .since(self.created)
            .unwrap_or_default()
    }

    pub(crate) fn run_time(&self) -> Duration {
        let Some(started) = self.started() else {
            return Duration::ZERO;
        };
        let ended = self.outcome().map_or_else(Tick::now, |outcome| outcome.completed);
        ended.since(started).unwrap_or_default()
    }

    pub(crate) fn round_trip_time(&self) -> Duration {
        let ended = self.outcome().map_or_else(Tick::now, |outcome| outcome.completed);
        ended.since(self.created).unwrap_or_default()
    }
}

impl Held {
    fn take(&mut self) -> Option<Captures> {
        let operation = self.operation.take()?;
        Some(Captures {
            operation,
            context: std::mem::take(&mut self.context),
        })
    }
}
