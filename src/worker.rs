//! A worker: takes a job, runs it, finishes it, takes the next.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::clock::Tick;
use crate::context::{Context, Scope};
use crate::engine::{BATCH, Engine, Running, Slot};
use crate::error::{Error, ErrorKind};
use crate::events::Event;
use crate::latency::Recorder;
use crate::notes::Scene;
use crate::panics::{contain, discard, log};
use crate::queue::Parker;
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
    recorder: Option<Arc<Recorder>>,
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

/// Runs the job on this thread, which is no worker and has entered the callers with this slot.
pub(crate) fn run_as_caller(engine: &Arc<Engine>, slot: Arc<Slot>, task: &Arc<Task>) {
    let worker = Worker::with(Arc::clone(engine), CALLER, slot, None);
    worker.act(|worker| worker.execute_inline(Arc::clone(task)));
    if let (Some(started), Some(outcome)) = (task.started(), task.outcome()) {
        engine.latencies.record_elsewhere(task.created, Some(started), outcome.completed);
    }
    discard("a delegator", worker);
}

/// Runs what is queued on this worker's thread, from inside a job. `false` if `until` comes before the end.
pub(crate) fn drain_inline(until: Tick) -> bool {
    let Some(worker) = current() else { return true };
    while until == Tick::NEVER || Tick::now() < until {
        match worker.engine.take_left() {
            Some(task) => worker.execute_inline(task),
            None => return true,
        }
    }
    false
}

/// Runs the job here and now, if this thread is a worker of its delegator and nobody else has taken the job.
pub(crate) fn run_inline(task: &Arc<Task>) {
    if !task.is_queued() {
        return;
    }
    if let Some(worker) = current().filter(|worker| task.is_owned_by(&worker.engine)) {
        worker.execute_inline(Arc::clone(task));
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

    fn with(
        engine: Arc<Engine>,
        index: usize,
        slot: Arc<Slot>,
        recorder: Option<Arc<Recorder>>,
    ) -> Rc<Worker> {
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
                log(log::Level::Error, format_args!("panic in {what} of worker {}: {panic}", self.index));
            }
        }
        discard(what, hook);
    }

    /// Runs a job inside another.
    pub(crate) fn execute_inline(&self, task: Arc<Task>) {
        self.execute(task);
        self.last_end.set(None);
    }

    /// Runs the job, or ends it, or skips it.
    fn execute(&self, task: Arc<Task>) {
        let now = self.last_end.take().unwrap_or_else(Tick::now).max(task.created);
        // Whoever sees the job running, and looks for it here to cancel it, waits for this lock and finds it.
        let mut at_work = self.slot.lock();
        match task.claim(self.index, now, &self.engine.scope) {
            Claim::Run(mut captures) => {
                let (scope, own) = self.lend_scope(captures.context.take_scope());
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
            }
            Claim::End(captures, end) => {
                drop(at_work);
                task.end_claimed(captures, end);
                discard("a finished job", task);
            }
            Claim::Stopped(captures) => {
                drop(at_work);
                // Its scope is cancelled, and says by whom.
                self.engine.hand_back(&task, captures, None);
                discard("a finished job", task);
            }
            Claim::Gone(leftovers) => {
                drop(at_work);
                discard(format_args!("what job {} captured", task.id), leftovers);
                discard("a finished job", task);
            }
        }
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

    /// Runs what was claimed and finishes the job on top of the slot's stack.
    fn run(&self, captures: Captures, created: Tick, scope: Arc<Scope>, is_own: bool) {
        let Captures { operation, context, extras: _ } = captures;
        let mut context = Context::of_job(context, scope);
        let returned = contain(|| operation.run(&context));
        let completed = Tick::now().max(created);
        let (state, result) = judge(returned, &context);
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
            recorder.record(created, task.started(), completed);
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
        let evicted = self.engine.finish(task, 0);
        if is_over && !announced && !self.engine.events.is_watched() && evicted.rest.is_empty() {
            self.last_end.set(Some(completed));
        }
        self.engine.recycle(evicted, &self.batch);
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
