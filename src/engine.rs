//! What a delegator, its submitters, its workers and its jobs share.

use std::cell::RefCell;

use crossbeam_channel::Sender;

use crate::context::Scope;
use crate::directive::Directive;
use crate::error::Cause;
use crate::id::JobId;
use crate::job::Job;
use crate::panics::discard;
use crate::queue::Queue;
use crate::registry::{Evicted, Registry};
use crate::sync::{Arc, AtomicU64, Mutex, Padded, Weak};
use crate::task::{Owner, Task};

/// How many emptied cells travel from a worker to a submitter at a time.
pub(crate) const BATCH: usize = 32;

/// How many such batches may wait for a submitter. What does not fit is freed.
const BATCHES: usize = 8;

pub(crate) struct Engine {
    pub(crate) queue: Queue<Arc<Task>>,
    pub(crate) registry: Registry,
    /// The host of every job's scope. Cancelling it cancels whatever runs.
    pub(crate) scope: Arc<Scope>,
    pub(crate) slots: Box<[Slot]>,
    pub(crate) admin: Sender<Directive>,
    pub(crate) rejected: AtomicU64,
    pub(crate) default_timeout: Option<std::time::Duration>,
    cells: Cells,
    /// Itself, for the jobs to refer to.
    weak: Weak<dyn Owner>,
}

/// A worker as others see it.
pub(crate) struct Slot {
    pub(crate) thread_name: String,
    running: Padded<Mutex<Vec<Running>>>,
}

/// A job on its worker. Those that a job runs inline, while it waits for them, lie on top of it.
pub(crate) struct Running {
    pub(crate) task: Arc<Task>,
    pub(crate) scope: Arc<Scope>,
}

impl Slot {
    pub(crate) fn new(thread_name: String) -> Slot {
        Slot {
            thread_name,
            running: Padded(Mutex::new(Vec::with_capacity(4))),
        }
    }

    pub(crate) fn push(&self, running: Running) {
        self.running.lock().push(running);
    }

    pub(crate) fn pop(&self) -> Option<Running> {
        self.running.lock().pop()
    }

    pub(crate) fn depth(&self) -> usize {
        self.running.lock().len()
    }

    /// The job that the worker's thread is in right now.
    pub(crate) fn current(&self) -> Option<JobId> {
        self.running.lock().last().map(|running| running.task.id)
    }

    fn scope_of(&self, task: &Arc<Task>) -> Option<Arc<Scope>> {
        let stack = self.running.lock();
        let running = stack
            .iter()
            .rev()
            .find(|running| Arc::ptr_eq(&running.task, task))?;
        Some(Arc::clone(&running.scope))
    }
}

impl Engine {
    pub(crate) fn new(
        queue: Queue<Arc<Task>>,
        registry: Registry,
        slots: Box<[Slot]>,
        admin: Sender<Directive>,
        default_timeout: Option<std::time::Duration>,
    ) -> Arc<Engine> {
        Arc::new_cyclic(|weak: &Weak<Engine>| Engine {
            queue,
            registry,
            scope: Scope::new(None, None),
            slots,
            admin,
            rejected: AtomicU64::new(0),
            default_timeout,
            cells: Cells::new(),
            weak: weak.clone(),
        })
    }

    /// A cell for this job: an emptied one if there is one, a new one otherwise.
    pub(crate) fn admit(&self, job: Job) -> Arc<Task> {
        if let Some(mut cell) = self.cells.take() {
            if let Some(task) = Arc::get_mut(&mut cell) {
                task.refill(job, &self.weak);
                return cell;
            }
        }
        Arc::new(Task::new(job, Weak::clone(&self.weak)))
    }

    /// Empties the cells of evicted records for the next jobs. Called without any lock: records hold user values.
    pub(crate) fn recycle(&self, evicted: Evicted, batch: &RefCell<Vec<Arc<Task>>>) {
        let Some(first) = evicted.first else { return };
        for mut cell in std::iter::once(first).chain(evicted.rest) {
            match Arc::get_mut(&mut cell) {
                Some(task) => {
                    discard("an evicted record", task.empty());
                    self.cells.put(cell, batch);
                }
                // A handle or a record is still about; who drops it frees the cell.
                None => discard("an evicted record", cell),
            }
        }
    }

    /// The jobs that workers are in, inline ones included.
    pub(crate) fn running(&self) -> usize {
        self.slots.iter().map(Slot::depth).sum()
    }
}

impl Owner for Engine {
    fn file(&self, task: &Arc<Task>) {
        let evicted = self.registry.file(task);
        if let Some(first) = evicted.first {
            discard("an evicted record", first);
        }
        evicted
            .rest
            .into_iter()
            .for_each(|task| discard("an evicted record", task));
    }

    fn cancel_running(&self, task: &Arc<Task>, cause: Option<Cause>) -> bool {
        let scope = task
            .worker()
            .and_then(|worker| self.slots.get(worker))
            .and_then(|slot| slot.scope_of(task));
        match scope {
            Some(scope) => {
                scope.cancel(cause);
                discard("the context of a finished job", scope);
                true
            }
            None => {
                discard("the cause of a cancel", cause);
                false
            }
        }
    }
}

/// Emptied cells on their way back from the workers to the submitters.
///
/// Allocating on one thread and freeing on another is what allocators are slowest at. So cells go round: worker, batch,
/// submitter, job, record, worker.
struct Cells {
    sender: Sender<Vec<Arc<Task>>>,
    receiver: crossbeam_channel::Receiver<Vec<Arc<Task>>>,
}

thread_local! {
    /// The cells that this thread may fill next. They fit every delegator.
    static STASH: RefCell<Vec<Arc<Task>>> = const { RefCell::new(Vec::new()) };
}

impl Cells {
    fn new() -> Cells {
        let (sender, receiver) = crossbeam_channel::bounded(BATCHES);
        Cells { sender, receiver }
    }

    fn take(&self) -> Option<Arc<Task>> {
        let from_stash = STASH.try_with(|stash| {
            let mut stash = stash.try_borrow_mut().ok()?;
            if stash.is_empty() && !self.receiver.is_empty() {
                *stash = self.receiver.try_recv().ok()?;
            }
            stash.pop()
        });
        from_stash.ok().flatten()
    }

    fn put(&self, cell: Arc<Task>, batch: &RefCell<Vec<Arc<Task>>>) {
        let Ok(mut batch) = batch.try_borrow_mut() else {
            return;
        };
        batch.push(cell);
        if batch.len() >= BATCH {
            let full = std::mem::replace(&mut *batch, Vec::with_capacity(BATCH));
            drop(batch);
            // Emptied cells hold nothing of the user's, so they can be dropped anywhere.
            drop(self.sender.try_send(full));
        }
    }
}
