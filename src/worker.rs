//! A worker: takes a job, runs it, finishes it, takes the next.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::clock::Tick;
use crate::context::{Context, Scope};
use crate::engine::{BATCH, Engine, Running};
use crate::error::{Error, ErrorKind};
use crate::panics::{contain, discard, log};
use crate::queue::Parker;
use crate::state::JobState;
use crate::sync::Arc;
use crate::task::{Captures, Claim, Outcome, Task};

/// A function of the user's that a worker calls with its index.
pub(crate) type Hook = Arc<dyn Fn(usize) + Send + Sync>;

/// The part of a worker that belongs to its thread.
pub(crate) struct Worker {
    engine: Arc<Engine>,
    index: usize,
    /// An unshared scope for the next job; `None` while a job has it.
    spare: Cell<Option<Arc<Scope>>>,
    /// When the last job ended, if nothing but taking the next one from the queue has happened since.
    last_end: Cell<Option<Tick>>,
    /// Emptied cells, until there are enough to send them off.
    batch: RefCell<Vec<Arc<Task>>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
}

/// The worker whose thread this is.
fn current() -> Option<Rc<Worker>> {
    CURRENT
        .try_with(|current| current.borrow().clone())
        .ok()
        .flatten()
}

/// Whether this thread is a worker of that delegator.
pub(crate) fn is_on(engine: &Arc<Engine>) -> bool {
    current().is_some_and(|worker| Arc::ptr_eq(&worker.engine, engine))
}

/// Which worker of that delegator this thread is.
pub(crate) fn index_on(engine: &Arc<Engine>) -> Option<usize> {
    current()
        .filter(|worker| Arc::ptr_eq(&worker.engine, engine))
        .map(|worker| worker.index)
}

/// Runs what is queued on this worker's thread, from inside a job. `false` if `until` comes before the end.
pub(crate) fn drain_inline(until: Tick) -> bool {
    let Some(worker) = current() else { return true };
    while until == Tick::NEVER || Tick::now() < until {
        match worker.engine.queue.try_pop() {
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

/// The life of a worker's thread.
pub(crate) fn run(engine: Arc<Engine>, index: usize, on_start: Option<Hook>, on_stop: Option<Hook>) {
    let worker = Rc::new(Worker {
        spare: Cell::new(Some(Scope::new(None, Some(Arc::clone(&engine.scope))))),
        engine,
        index,
        last_end: Cell::new(None),
        batch: RefCell::new(Vec::with_capacity(BATCH)),
    });
    CURRENT.set(Some(Rc::clone(&worker)));
    worker.call("on_worker_start", on_start);
    let parker = Parker::of_this_thread();
    let queue = &worker.engine.queue;
    while let Some((task, waited)) = queue.pop(&parker) {
        if waited {
            worker.last_end.set(None);
        }
        worker.execute(task);
        queue.offer();
    }
    worker.call("on_worker_stop", on_stop);
    CURRENT.set(None);
}

impl Worker {
    fn call(&self, what: &str, hook: Option<Hook>) {
        if let Some(hook) = &hook {
            if let Err(panic) = contain(|| hook(self.index)) {
                log(
                    log::Level::Error,
                    format_args!("panic in {what} of worker {}: {panic}", self.index),
                );
            }
        }
        discard(what, hook);
    }

    /// Runs a job inside another.
    fn execute_inline(&self, task: Arc<Task>) {
        self.execute(task);
        self.last_end.set(None);
    }

    /// Runs the job, or ends it, or skips it.
    fn execute(&self, task: Arc<Task>) {
        let now = self.last_end.take().unwrap_or_else(Tick::now).max(task.created);
        match task.claim(self.index, now, &self.engine.scope) {
            Claim::Run(captures) => self.run(task, captures),
            Claim::End(captures, end) => task.end_claimed(captures, end),
            Claim::Gone(leftovers) => discard(format_args!("what job {} captured", task.id), leftovers),
        }
    }

    fn run(&self, task: Arc<Task>, captures: Captures) {
        let Captures {
            operation,
            context: mut given,
        } = captures;
        let parent = given.take_scope();
        let scope = match self.spare.take() {
            Some(spare) => Scope::adopt(spare, parent),
            None => Scope::new(parent, Some(Arc::clone(&self.engine.scope))),
        };
        let context = Context::of_job(given, Arc::clone(&scope));
        let slot = &self.engine.slots[self.index];
        let (id, created) = (task.id, task.created);
        slot.push(Running { task, scope });

        let returned = contain(|| operation.run(&context));
        let completed = Tick::now().max(created);
        let (state, result) = judge(returned, &context);
        discard(format_args!("what job {id} captured"), operation);
        discard(format_args!("the context of job {id}"), context);

        let Some(Running { task, scope }) = slot.pop() else {
            return;
        };
        self.spare.set(Some(Scope::renew(scope)));
        task.settle(Outcome {
            state,
            completed,
            result,
        });
        let evicted = self.engine.registry.file(&task);
        task.publish(0);
        drop(task);
        self.last_end.set(Some(completed));
        self.engine.recycle(evicted, &self.batch);
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
