//! A worker: takes a job, runs it, finishes it, takes the next.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::clock::Tick;
use crate::context::{Context, Scope};
use crate::engine::{BATCH, Engine, Running, Slot};
use crate::error::{Error, ErrorKind};
use crate::events::Event;
use crate::extras::Retrying;
use crate::job::Run;
use crate::keys::Way;
use crate::latency::Writer;
use crate::notes::Scene;
use crate::panics::{contain, discard, log, log_about};
use crate::queue::{Parker, Phase};
use crate::retry::{Attempt, GaveUp};
use crate::state::JobState;
use crate::sync::{Arc, Unshared, thread_local};
use crate::task::{Captures, Claim, Outcome, Task};

/// What stands for the index of a worker on a thread that is none.
const CALLER: usize = usize::MAX;

/// A function of the user's that a worker calls with its index.
pub(crate) type Hook = Arc<dyn Fn(usize) + Send + Sync>;

/// The part of a worker that belongs to its thread.
pub(crate) struct Worker {
    engine: Arc<Engine>,
    index: usize,
    slot: Arc<Slot>,
    /// The scope of the slot, for the next job; `None` while a job has it.
    spare: Cell<Option<Arc<Scope>>>,
    /// When the last job ended, if no user code has run since.
    last_end: Cell<Option<Tick>>,
    /// Another has its place.
    replaced: Cell<bool>,
    /// The times of the jobs it ran, if somebody wants to know them.
    recorder: Option<Writer>,
    /// Cells of evicted records, until there are enough to send them off.
    batch: RefCell<Vec<Arc<Task>>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
}

/// The worker whose thread this is.
fn current() -> Option<Rc<Worker>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// Whether this thread is a worker of that delegator.
pub(crate) fn is_on(engine: &Arc<Engine>) -> bool {
    current().is_some_and(|worker| Arc::ptr_eq(&worker.engine, engine))
}

/// Where this thread works, if it is a worker of that delegator or runs a job of its as a caller.
pub(crate) fn slot_on(engine: &Arc<Engine>) -> Option<Arc<Slot>> {
    current().filter(|worker| Arc::ptr_eq(&worker.engine, engine)).map(|worker| Arc::clone(&worker.slot))
}

/// Has a job with a key start without having been in the queue, on this worker's thread. What has the key and waits for a
/// worker is run first: there may be no other. `false` if somebody else runs what has it.
#[cold]
pub(crate) fn get_seat(engine: &Arc<Engine>, task: &Arc<Task>) -> bool {
    let Some(worker) = current() else { return false };
    while !engine.take_seat(task, &worker.slot.jobs()) {
        let Some(holder) = engine.queued_holder(task) else { return false };
        worker.execute_inline(holder);
        if engine.queue.phase() != Phase::Open {
            return false;
        }
    }
    true
}

/// Runs the job on this thread, which is no worker and has entered the callers with this slot.
pub(crate) fn run_as_caller(engine: &Arc<Engine>, slot: Arc<Slot>, task: &Arc<Task>) {
    let worker = Worker::with(Arc::clone(engine), CALLER, slot, None);
    worker.act(|worker| {
        worker.execute_inline(Arc::clone(task));
        // What it has let start, where the workers may have left.
        while engine.has_keys() && engine.queue.phase() != Phase::Open {
            let Some(task) = engine.take_left() else { break };
            worker.execute_inline(task);
        }
    });
    discard("a delegator", worker);
}

/// Runs what is queued on this worker's thread, from inside a job. `false` if `until` comes before the end.
pub(crate) fn drain_inline(until: Tick) -> bool {
    let Some(worker) = current() else { return true };
    while until == Tick::NEVER || Tick::now() < until {
        let left = worker.engine.take_left();
        match left.or_else(|| worker.engine.held_by(&worker.slot.jobs())) {
            Some(task) => {
                worker.execute_inline(task);
            }
            None => return true,
        }
    }
    false
}

/// Runs the job here and now, if this thread is a worker of its delegator and nobody else has taken the job.
pub(crate) fn run_inline(task: &Arc<Task>) {
    // Its time may be over after any of them.
    while task.is_held() && !task.look().is_finished() && make_way(task) {}
    if !task.is_queued() {
        return;
    }
    if let Some(worker) = current().filter(|worker| task.is_owned_by(&worker.engine)) {
        worker.execute_inline(Arc::clone(task));
    }
}

/// Does what keeps a job that is held back from running, or the job itself, if that is to be done on this worker's thread.
/// `false` if it is not: then the thread is unparked when that may have changed.
#[cold]
pub(crate) fn make_way(task: &Arc<Task>) -> bool {
    let Some(worker) = current().filter(|worker| task.is_owned_by(&worker.engine)) else { return false };
    match worker.engine.way_to(task, &worker.slot.jobs()) {
        Way::Run(task) => {
            worker.execute_inline(task);
            true
        }
        Way::Wait => false,
    }
}

/// Whether this thread is a worker of that job's delegator.
pub(crate) fn could_run(task: &Arc<Task>) -> bool {
    current().is_some_and(|worker| task.is_owned_by(&worker.engine))
}

/// The life of a worker's thread.
///
/// `fresh`: it takes the place of another.
pub(crate) fn run(
    engine: Arc<Engine>,
    index: usize,
    on_start: Option<Hook>,
    on_stop: Option<Hook>,
    fresh: bool,
) {
    let worker = Worker::new(engine, index);
    CURRENT.with(|current| current.replace(Some(Rc::clone(&worker))));
    worker.call("on_worker_start", on_start);
    let parker = Parker::of_this_thread();
    let queue = &worker.engine.queue;
    if fresh {
        queue.offer();
    }
    while let Some((task, waited)) = queue.pop(&parker) {
        if waited {
            worker.last_end.set(None);
        }
        worker.execute(task);
        if worker.replaced.get() {
            break;
        }
        queue.offer();
    }
    while !worker.replaced.get() {
        let Some(task) = worker.engine.take_left() else { break };
        worker.execute_inline(task);
    }
    worker.call("on_worker_stop", on_stop);
    if worker.replaced.get() {
        worker.engine.slots[index].lock().live = false;
    }
    CURRENT.with(|current| current.replace(None));
    // It may be the last to let go of the delegator, and of records with values of the user's.
    discard("a delegator", worker);
}

impl Worker {
    pub(crate) fn new(engine: Arc<Engine>, index: usize) -> Rc<Worker> {
        let (slot, recorder) = (Arc::clone(&engine.slots[index]), engine.latencies.join());
        Worker::with(engine, index, slot, recorder)
    }

    fn with(engine: Arc<Engine>, index: usize, slot: Arc<Slot>, recorder: Option<Writer>) -> Rc<Worker> {
        let scope = Arc::clone(&slot.lock().scope);
        Rc::new(Worker {
            spare: Cell::new(Some(scope)),
            recorder,
            engine,
            index,
            slot,
            last_end: Cell::new(None),
            replaced: Cell::new(false),
            batch: RefCell::new(Vec::with_capacity(BATCH)),
        })
    }

    /// Does something as this worker, on a thread that is not its own.
    pub(crate) fn act<T>(self: &Rc<Self>, action: impl FnOnce(&Worker) -> T) -> T {
        let before = CURRENT.with(|current| current.replace(Some(Rc::clone(self))));
        let result = action(self);
        CURRENT.with(|current| current.replace(before));
        result
    }

    pub(crate) fn call(&self, what: &str, hook: Option<Hook>) {
        if let Some(hook) = &hook {
            if let Err(panic) = contain(|| hook(self.index)) {
                log_about(
                    log::Level::Error,
                    format_args!("panic in {what} of worker {}: {panic}", self.index),
                    &[("worker", self.index)],
                );
            }
        }
        discard(what, hook);
    }

    /// Runs a job inside another. `true` if there was one to run.
    pub(crate) fn execute_inline(&self, task: Arc<Task>) -> bool {
        // A caller has no recorder of its own.
        let to_record = (self.index == CALLER).then(|| Arc::clone(&task));
        let ran = self.execute(task);
        self.last_end.set(None);
        if let Some(task) = to_record {
            if let Some(outcome) = task.outcome().filter(|_| ran) {
                let (created, started) = (task.created, task.started());
                self.engine.latencies.record_elsewhere(&task.name, created, started, outcome.completed);
            }
            discard("a finished job", task);
        }
        ran
    }

    /// Runs the job, or ends it, or skips it; `true` if it ran it.
    fn execute(&self, task: Arc<Task>) -> bool {
        let now = self.last_end.take().unwrap_or_else(Tick::now).max(task.created);
        // Whoever sees the job running, and looks for it here to cancel it, waits for this lock and finds it.
        let mut at_work = self.slot.lock();
        match task.claim(self.index, now, &self.engine.scope, || self.engine.has_seat(task.id)) {
            Claim::Run(captures) if captures.tick().is_some() => {
                drop(at_work);
                self.tick(captures)
            }
            Claim::Run(mut captures) => {
                let retried = captures.extras.as_mut().and_then(|extras| extras.retry.as_mut());
                let (scope, own) = match retried {
                    None => self.lend_scope(captures.context.take_scope()),
                    Some(retry) => self.scope_for_all(retry, &mut captures.context),
                };
                let (created, deadline, is_own) = (task.created, task.deadline, own.is_some());
                let watched = self.engine.events.is_watched().then(|| Arc::clone(&task));
                at_work.stack.push(Running { task, scope: own, stuck: false });
                drop(at_work);
                if deadline != Tick::NEVER {
                    self.engine.alarm.set_for_end(deadline);
                }
                if is_own && Scope::employ(&scope) {
                    self.engine.alarm.set_for_end(now);
                }
                if let Some(task) = watched {
                    self.tell_started(&task);
                }
                self.run(captures, created, scope, is_own);
                true
            }
            Claim::End(captures, end) => {
                drop(at_work);
                let has_key = captures.has_key();
                task.end_claimed(captures, end);
                if has_key {
                    self.engine.leave_key(task.id, false);
                }
                discard("a finished job", task);
                false
            }
            Claim::Stopped(captures) => {
                drop(at_work);
                let has_key = captures.has_key();
                // Its scope is cancelled, and says by whom.
                self.engine.hand_back(&task, captures, None);
                if has_key {
                    self.engine.leave_key(task.id, false);
                }
                discard("a finished job", task);
                false
            }
            Claim::Gone(leftovers) => {
                drop(at_work);
                task.drop_leftovers(leftovers);
                if self.engine.has_keys() && task.is_past() {
                    self.engine.leave_key(task.id, false);
                }
                discard("a finished job", task);
                false
            }
        }
    }

    #[cold]
    fn tick(&self, captures: Captures) -> bool {
        let ran = captures.tick().is_some_and(|tick| tick.series.tick(&self.engine, tick.owed));
        discard("a periodic job", captures);
        ran
    }

    #[cold]
    fn tell_started(&self, task: &Task) {
        let (id, name, worker) = (task.id, task.name.clone(), self.index.min(self.engine.slots.len()));
        self.engine.events.emit(|| Event::Started { id, name, worker });
    }

    /// The scope for a job, and the same again if it is the job's own. Nothing is counted for a job without a parent
    /// context: the slot and this worker share one scope for all of them.
    fn lend_scope(&self, parent: Option<Arc<Scope>>) -> (Arc<Scope>, Option<Arc<Scope>>) {
        if parent.is_none() {
            if let Some(spare) = self.spare.take() {
                return (spare, None);
            }
        }
        let own = Scope::new(parent, Some(Arc::clone(&self.engine.scope)));
        (Arc::clone(&own), Some(own))
    }

    /// The scope for this attempt of a job that may be tried again, below the one for all of them, and the same again.
    #[cold]
    fn scope_for_all(&self, retry: &mut Retrying, context: &mut Context) -> (Arc<Scope>, Option<Arc<Scope>>) {
        let is_made = std::mem::replace(&mut retry.scoped, true);
        let made = if is_made { context.scope() } else { None };
        let all = made.unwrap_or_else(|| context.push_scope());
        let attempt = Scope::new(Some(all), Some(Arc::clone(&self.engine.scope)));
        (Arc::clone(&attempt), Some(attempt))
    }

    /// Runs what was claimed and finishes the job on top of the slot's stack.
    fn run(&self, captures: Captures, created: Tick, scope: Arc<Scope>, is_own: bool) {
        let has_key = captures.has_key();
        let Captures { operation, context, extras } = captures;
        let again = extras.and_then(|extras| extras.retry.is_some().then(|| (context.clone(), extras)));
        let mut context = Context::of_job(context, scope);
        let returned = contain(|| operation.run(&context));
        let completed = Tick::now().max(created);
        let (state, result) = judge(returned, &context);
        let operation = match again {
            None => operation,
            Some((given, extras)) => {
                let captures = Captures { operation, context: given, extras: Some(extras) };
                match self.try_again(captures, &context, state, &result, completed) {
                    Some(operation) => operation,
                    None => {
                        discard("what an attempt failed with", result);
                        return discard("the context of a job", context);
                    }
                }
            }
        };
        let spent = if operation.is_plain() {
            Some(operation)
        } else {
            discard("what a job captured", operation);
            None
        };
        // The next job starts when nothing of this one is left.
        let is_over = spent.is_some() && !is_own && !context.has_values();
        let scope = context.take_scope();
        if context.has_values() {
            discard("the context of a job", context);
        }

        let mut at_work = self.slot.lock();
        let Some(Running { task, scope: own, .. }) = at_work.stack.pop() else { return };
        self.replaced.set(at_work.replaced);
        // Who looks for them finds them on the stack or with the job.
        let noted = scope.as_ref().and_then(|scope| scope.notes()).map(|notes| {
            let noted = notes.close();
            task.note(noted.clone());
            noted
        });
        drop(at_work);
        if own.is_some() {
            discard("the context of a job", own);
        }
        if let Some(scope) = scope {
            if is_own {
                discard("the context of a job", scope);
            } else {
                self.spare.set(Some(self.keep_or_replace(scope)));
            }
        }
        if let Some(recorder) = &self.recorder {
            recorder.record(&task.name, created, task.started(), completed);
        }
        if let Some(pace) = &self.engine.pace {
            pace.record(self.index, task.started(), completed);
        }
        let is_noted = noted.is_some();
        let result = match (state, noted.and_then(|noted| noted.checkpoint)) {
            (JobState::Cancelled | JobState::TimedOut, Some(note)) => result.map_err(|error| {
                error.at(Scene {
                    job: task.name.clone(),
                    thread: self.slot.thread_name.clone(),
                    limit: task.deadline.since(created).unwrap_or_default(),
                    note,
                    ended: completed,
                })
            }),
            _ => result,
        };
        let outcome = Outcome { completed, result, spent: Unshared::new(spent) };
        let announced = task.settle(state, outcome, is_noted);
        let with_key = has_key.then_some(task.id);
        let evicted = self.engine.finish(task);
        if is_over && !announced && !self.engine.events.is_watched() && evicted.rest.is_empty() {
            self.last_end.set(Some(completed));
        }
        self.engine.recycle(evicted, &self.batch);
        if let Some(id) = with_key {
            self.engine.leave_key(id, false);
        }
    }

    /// Puts the job on top of the slot's stack back to wait for its next attempt, if there is to be one. If not, gives the
    /// operation back, with everything else dropped.
    #[cold]
    fn try_again(
        &self,
        mut captures: Captures,
        context: &Context,
        state: JobState,
        result: &Result<Vec<u8>, Error>,
        completed: Tick,
    ) -> Option<Box<dyn Run>> {
        let task = self.slot.lock().stack.last().map(|running| Arc::clone(&running.task))?;
        if let Some(extras) = &mut captures.extras {
            extras.listening = None;
        }
        let failed = matches!(state, JobState::Failed | JobState::Panicked) && !context.is_done();
        if let (true, Err(error)) = (failed, result) {
            match self.next_attempt(&task, &captures, error) {
                Ok((due, delay)) => {
                    self.note_attempt(&task, error, completed, delay);
                    return self.put_back(task, captures, due);
                }
                Err(why) => task.note_tries(|tries| tries.gave_up = Some(why)),
            }
        }
        if task.attempts() > 1 {
            // It may have been tried by another delegator.
            task.note_tries(|_| ());
        }
        drop(task);
        let Captures { operation, context, extras } = captures;
        discard("the policy of a job", extras);
        discard("the context of a job", context);
        Some(operation)
    }

    /// When the job is to be tried again, and how long that is from now.
    fn next_attempt(
        &self,
        task: &Task,
        captures: &Captures,
        error: &Error,
    ) -> Result<(Tick, Duration), GaveUp> {
        let retry = captures.extras.as_ref().and_then(|extras| extras.retry.as_ref());
        let Some(retry) = retry else { return Err(GaveUp::Attempts) };
        let (engine, attempt) = (&self.engine, task.attempts());
        let delay = retry.policy.decide(error, attempt, engine.retries.random(task.id, attempt))?;
        let now = Tick::now();
        let due = now.after(delay);
        if due >= task.deadline {
            return Err(GaveUp::Deadline);
        }
        if !engine.retries.spend(now, engine.registry.accepted()) {
            return Err(GaveUp::Budget);
        }
        Ok((due, delay))
    }

    /// Keeps what there is to know of an attempt that failed, and tells it.
    fn note_attempt(&self, task: &Task, error: &Error, ended: Tick, delay: Duration) {
        let number = task.attempts();
        let started = task.started().unwrap_or(ended);
        let attempt =
            Attempt { number, worker: task.worker(), started, ended, wall: task.wall, error: error.clone() };
        let took = attempt.run_time();
        let forgotten = task.note_tries(|tries| tries.push(attempt));
        discard("the error of an attempt", forgotten);
        let level = if error.is_panic() { log::Level::Error } else { log::Level::Warn };
        let place = task.worker().map_or("in its caller".to_owned(), |worker| format!("on worker {worker}"));
        log(
            level,
            format_args!(
                "job {} {:?} failed {place}, in attempt {number}: ran {took:.1?}, next in {delay:.1?}: {error}",
                task.id, task.name
            ),
        );
        self.engine.events.emit(|| Event::Retrying {
            id: task.id,
            name: task.name.clone(),
            attempt: number,
            error: error.clone(),
            delay,
        });
    }

    fn put_back(&self, task: Arc<Task>, captures: Captures, due: Tick) -> Option<Box<dyn Run>> {
        if captures.has_key() {
            // Others may have the key meanwhile. Before the job can enter again.
            self.engine.leave_key(task.id, false);
        }
        // Whoever cancels a running job looks for it under this lock. It does not get lost: they find it here or
        // waiting, and whoever has found it here cancels the scope that it keeps.
        let mut at_work = self.slot.lock();
        let running = at_work.stack.pop();
        // What is said from now on, through a context that was kept, goes nowhere.
        if let Some(notes) = running.as_ref().and_then(|running| running.scope.as_ref()?.notes()) {
            let _ = notes.close();
        }
        let back = self.engine.schedule_again(&task, captures, due);
        drop(at_work);
        discard("the context of a job", running);
        match back {
            Ok(()) => self.engine.confirm_again(&task, due),
            // A shutdown hands back what waits, and what would.
            Err(captures) => {
                self.engine.retries.refund();
                task.forget_start();
                self.engine.hand_back(&task, captures, None);
            }
        }
        discard("a finished job", task);
        None
    }

    /// A scope for the next job that has none of its own: the last one's, if that left it as it was.
    fn keep_or_replace(&self, scope: Arc<Scope>) -> Arc<Scope> {
        if Scope::is_untouched(&scope) {
            return scope;
        }
        let next = Scope::new(None, Some(Arc::clone(&self.engine.scope)));
        let replaced = std::mem::replace(&mut self.slot.lock().scope, Arc::clone(&next));
        discard("the context of a job", replaced);
        discard("the context of a job", scope);
        next
    }
}

/// What a return value means for a job that ran under this context.
fn judge(
    returned: Result<Result<Vec<u8>, Error>, String>,
    context: &Context,
) -> (JobState, Result<Vec<u8>, Error>) {
    match returned {
        Ok(Ok(payload)) => (JobState::Completed, Ok(payload)),
        Ok(Err(error)) => {
            let state = match error.kind() {
                // Only the end of the job's own context is its end; an error of somebody else's is a failure.
                ErrorKind::Cancelled if context.error().is_some_and(|own| own.is_cancelled()) => {
                    JobState::Cancelled
                }
                ErrorKind::DeadlineExceeded if context.error().is_some_and(|own| own.is_timeout()) => {
                    JobState::TimedOut
                }
                _ => JobState::Failed,
            };
            (state, Err(error))
        }
        Err(panic) => (JobState::Panicked, Err(Error::panicked(panic))),
    }
}
