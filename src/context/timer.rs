//! The timer thread: one per process, started by the first context that somebody listens to up to its deadline.

use std::collections::BTreeMap;

use super::listener::{Ended, Listener};
use crate::clock::Tick;
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

struct State {
    /// By deadline and the listener's number.
    due: BTreeMap<(Tick, u64), Arc<Listener>>,
    started: bool,
}

/// Fires the listener at this time, unless it is removed before.
pub(super) fn add(at: Tick, listener: &Arc<Listener>) {
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

pub(super) fn remove(at: Tick, number: u64) {
    let entry = TIMER.state.lock().due.remove(&(at, number));
    drop(entry);
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
