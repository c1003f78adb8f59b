//! Threads that run jobs of a delegator without being its workers: submitters that found the queue full.

use crate::clock::Tick;
use crate::engine::Slot;
use crate::sync::{self, Arc, Mutex, Thread};

#[derive(Default)]
pub(crate) struct Callers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    callers: Vec<Caller>,
    /// Threads that wait for all of them to leave.
    waiting: Vec<Thread>,
}

struct Caller {
    slot: Arc<Slot>,
    /// Its job is in a shutdown, which does not wait for other such.
    shuts_down: bool,
}

impl Callers {
    /// To be followed by a look at the phase of the queue: a shutdown closes it first and then waits for who is in here.
    pub(crate) fn enter(&self, slot: &Arc<Slot>) {
        self.state.lock().callers.push(Caller { slot: Arc::clone(slot), shuts_down: false });
    }

    pub(crate) fn leave(&self, slot: &Arc<Slot>) {
        self.change(|state| state.callers.retain(|caller| !Arc::ptr_eq(&caller.slot, slot)));
    }

    /// The caller with this slot is in a shutdown now, or not any more.
    pub(crate) fn shuts_down(&self, slot: &Arc<Slot>, shuts_down: bool) {
        self.change(|state| {
            let own = state.callers.iter_mut().filter(|caller| Arc::ptr_eq(&caller.slot, slot));
            own.for_each(|caller| caller.shuts_down = shuts_down);
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(|thread| thread.unpark());
    }

    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        self.state.lock().callers.iter().map(|caller| Arc::clone(&caller.slot)).collect()
    }

    /// Waits until all have left, but for those that shut down. `false` if `until` comes first.
    pub(crate) fn wait(&self, until: Tick, park: impl Fn(Tick)) -> bool {
        loop {
            {
                let mut state = self.state.lock();
                if state.callers.iter().all(|caller| caller.shuts_down) {
                    return true;
                }
                if until != Tick::NEVER && until <= Tick::now() {
                    return false;
                }
                state.waiting.retain(|thread| thread.id() != sync::current().id());
                state.waiting.push(sync::current());
            }
            park(until);
        }
    }
}
