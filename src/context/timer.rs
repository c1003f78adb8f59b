//! The timer thread: one per process, started by the first context that somebody listens to up to its deadline. Where time
//! is virtual, the thread that lets it pass does the same.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::listener::{Ended, Listener};
use crate::clock::Tick;
use crate::driver::{self, Driven};
use crate::panics;
use crate::sync::Arc;
use parking_lot::{Condvar, Mutex};

static TIMER: Timer =
    Timer { state: Mutex::new(State { due: BTreeMap::new(), started: false }), changed: Condvar::new() };

struct Timer {
    state: Mutex<State>,
    /// Notified when an entry became the earliest.
    changed: Condvar,
}

/// By deadline and the listener's number.
type Due = BTreeMap<(Tick, u64), Arc<Listener>>;

struct State {
    due: Due,
    started: bool,
}

/// Fires the listener at this time, unless it is removed before.
pub(super) fn add(at: Tick, listener: &Arc<Listener>) {
    if let Some(timer) = listener.virtual_timer() {
        timer.0.lock().insert((at, listener.number()), Arc::clone(listener));
        return;
    }
    add_real(at, listener);
}

fn add_real(at: Tick, listener: &Arc<Listener>) {
    if cfg!(any(loom, shuttle)) {
        // A thread that outlives a model is no part of it: the models fire their listeners themselves.
        return;
    }
    let key = (at, listener.number());
    let mut state = TIMER.state.lock();
    state.due.insert(key, Arc::clone(listener));
    let is_first = state.due.first_key_value().is_some_and(|(first, _)| *first == key);
    let start = !std::mem::replace(&mut state.started, true);
    drop(state);
    if start {
        let spawned = std::thread::Builder::new().name("workpath-timer".to_owned()).spawn(|| TIMER.run());
        if let Err(error) = spawned {
            // The next listener tries again; until then only those who look at the clock themselves notice deadlines.
            TIMER.state.lock().started = false;
            panics::log(log::Level::Error, format_args!("the timer thread cannot start: {error}"));
        }
    } else if is_first {
        TIMER.changed.notify_one();
    }
}

pub(super) fn remove(at: Tick, listener: &Listener) {
    let key = (at, listener.number());
    let entry = listener.virtual_timer().and_then(|timer| timer.0.lock().remove(&key));
    let entry = entry.or_else(|| TIMER.state.lock().due.remove(&key));
    drop(entry);
}

/// The deadlines that were listened to on a thread where time is virtual.
pub(super) struct VirtualTimer(Mutex<Due>);

/// The same to the thread that lets time pass.
struct Passing(Arc<VirtualTimer>);

/// Both, as a thread has them.
type OfThread = (Arc<VirtualTimer>, Rc<dyn Driven>);

std::thread_local! {
    static VIRTUAL: RefCell<Option<OfThread>> = const { RefCell::new(None) };
}

/// The timer of the calling thread, if that is not the process's.
pub(super) fn of_this_thread() -> Option<Arc<VirtualTimer>> {
    VIRTUAL.try_with(|timer| timer.borrow().as_ref().map(|(timer, _)| Arc::clone(timer))).ok().flatten()
}

/// Time is virtual on this thread from now on.
pub(crate) fn begin_virtual() {
    let timer = Arc::new(VirtualTimer(Mutex::default()));
    let passing: Rc<dyn Driven> = Rc::new(Passing(Arc::clone(&timer)));
    driver::enlist(Rc::clone(&passing));
    VIRTUAL.with(|of_thread| of_thread.replace(Some((timer, passing))));
}

/// Time is real again. What is still to come will come when it does in real time.
pub(crate) fn end_virtual() {
    let of_thread = VIRTUAL.try_with(|of_thread| of_thread.take()).ok().flatten();
    let Some((timer, passing)) = of_thread else { return };
    driver::remove(&passing);
    let due = std::mem::take(&mut *timer.0.lock());
    for ((at, _), listener) in due {
        add_real(at, &listener);
    }
}

impl Driven for Passing {
    fn next(&self) -> Tick {
        self.0.0.lock().first_key_value().map_or(Tick::NEVER, |((at, _), _)| *at)
    }

    fn fire(&self, now: Tick) {
        loop {
            let next = self.next();
            if next > now {
                return;
            }
            let mut due = self.0.0.lock();
            let later = due.split_off(&(next, u64::MAX));
            let first = std::mem::replace(&mut *due, later);
            drop(due);
            // This is not the timer thread, which must leave what jobs captured alone.
            Listener::fire(first.into_values(), Ended::ByCancel);
        }
    }
}

impl Timer {
    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            let Some((&(at, _), _)) = state.due.first_key_value() else {
                self.changed.wait(&mut state);
                continue;
            };
            match (at.since(Tick::now()), at.instant()) {
                (Some(_), Some(instant)) => {
                    self.changed.wait_until(&mut state, instant);
                }
                _ => {
                    let later = state.due.split_off(&(Tick::now(), u64::MAX));
                    let due = std::mem::replace(&mut state.due, later);
                    drop(state);
                    Listener::fire(due.into_values(), Ended::AtDeadline);
                    state = self.state.lock();
                }
            }
        }
    }
}
