//! Fresh workers in the place of those that a stuck job keeps.
//!
//! 1. Only the delegator thread replaces workers, and it alone counts them off when they stop. A replacement is counted
//!    before it is started, so nobody who waits for all workers overlooks it.
//! 2. Then it is started, and then the old worker's slot is marked. A worker reads its mark when it takes a job off its
//!    stack, and leaves after the outermost. If the stuck job has returned before the mark, that is after its next job.
//! 3. Without a queue, a fresh worker offers itself as free, and a marked one no more: the number of offers stays the same.

use std::io;

use super::shutdown::Closing;
use super::thread::{self, Plan};
use crate::engine::Engine;
use crate::events::Event;
use crate::panics::discard;
use crate::queue::Phase;
use crate::sync::{Arc, Builder, JoinHandle};
use crate::worker::Hook;

/// What it takes to start more workers.
pub(super) struct Relief {
    /// The slot of the next.
    next: usize,
    stack_size: Option<usize>,
    hooks: Option<[Option<Hook>; 2]>,
}

impl Relief {
    pub(super) fn new(plan: &Plan) -> Relief {
        let hooks = || [plan.on_worker_start.clone(), plan.on_worker_stop.clone()];
        Relief { next: plan.workers, stack_size: plan.stack_size, hooks: (plan.replacements > 0).then(hooks) }
    }

    /// Has a fresh worker take the place of this one, if there is one left. An error is that of the thread, with its name.
    pub(super) fn replace(
        &mut self,
        old: usize,
        engine: &Arc<Engine>,
        closing: &Closing,
    ) -> Result<Option<JoinHandle<()>>, (String, io::Error)> {
        let (index, Some([on_start, on_stop])) = (self.next, &self.hooks) else { return Ok(None) };
        // A submitter that runs a job itself is no worker.
        let (Some(slot), Some(old_slot)) = (engine.slots.get(index), engine.slots.get(old)) else {
            return Ok(None);
        };
        if engine.queue.phase() == Phase::Stopped || old_slot.lock().replaced {
            return Ok(None);
        }
        closing.worker_added();
        slot.lock().live = true;
        let (fresh, hooks) = (Arc::clone(engine), (on_start.clone(), on_stop.clone()));
        let builder = thread::builder(slot, self.stack_size);
        let spawned = thread::spawn(builder, move || thread::work(fresh, index, hooks, true));
        match spawned {
            Ok(thread) => {
                self.next += 1;
                old_slot.lock().replaced = true;
                engine.events.emit(|| Event::WorkerReplaced { worker: old, by: index });
                Ok(Some(thread))
            }
            Err(error) => {
                slot.lock().live = false;
                closing.worker_missing();
                Err((slot.thread_name.clone(), error))
            }
        }
    }

    /// Drops the hooks, on a thread of its own if there is one to be had: that may take as long as it takes.
    pub(super) fn dismiss(self) -> Option<JoinHandle<()>> {
        let hooks = self.hooks?;
        if hooks.iter().all(Option::is_none) {
            return None;
        }
        thread::spawn(Builder::new(), move || discard("a hook of a worker", hooks)).ok()
    }
}
