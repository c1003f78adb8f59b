//! What a thread does where others wait, if the time on it is virtual: the work itself, and then let time pass.

use std::cell::RefCell;
use std::rc::Rc;

use crate::clock::{self, Tick};
use crate::sync;

/// Something whose work is done by the thread that waits for it.
pub(crate) trait Driven {
    /// Runs one job, if there is one that can run now. Never one inside another of the same delegator.
    fn step(&self) -> Stepped {
        Stepped::Idle
    }

    /// Ends the work for good, if nothing is left to do and nothing will come. `true` the first time.
    fn leave(&self) -> bool {
        false
    }

    /// When there is something to do next that needs the time to come.
    fn next(&self) -> Tick;

    /// Does what is due. Runs no job.
    fn fire(&self, now: Tick);

    /// Whether that is the address of the delegator that it drives.
    fn drives(&self, _owner: *const ()) -> bool {
        false
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stepped {
    /// There was nothing to do.
    Idle,
    /// No job could run, but the queue has room where jobs were that had ended in it.
    Cleared,
    Ran,
}

std::thread_local! {
    static DRIVEN: RefCell<Vec<Rc<dyn Driven>>> = const { RefCell::new(Vec::new()) };
}

/// Makes this the work of the calling thread.
pub(crate) fn enlist(driven: Rc<dyn Driven>) {
    let _ = DRIVEN.try_with(|all| all.borrow_mut().push(driven));
}

pub(crate) fn remove(driven: &Rc<dyn Driven>) {
    let _ = DRIVEN.try_with(|all| all.borrow_mut().retain(|each| !Rc::ptr_eq(each, driven)));
}

fn all() -> Vec<Rc<dyn Driven>> {
    DRIVEN.try_with(|all| all.borrow().clone()).unwrap_or_default()
}

/// Whether the delegator with this address is the calling thread's work.
pub(crate) fn drives(owner: *const ()) -> bool {
    all().iter().any(|driven| driven.drives(owner))
}

/// Runs one job of any delegator of this thread that is not in one.
pub(crate) fn step() -> bool {
    all().iter().any(|driven| driven.step() == Stepped::Ran)
}

/// Has the delegators of this thread that are shut down and have nothing left to do come to their end. `true` if one did.
pub(crate) fn leave() -> bool {
    all().iter().any(|driven| driven.leave())
}

/// Lets time pass up to the next thing that is due, and no further than `until`, and does what is due then. `false` if
/// nothing will ever be.
pub(crate) fn pass(until: Tick) -> bool {
    let all = all();
    let next = all.iter().map(|driven| driven.next()).fold(until, Tick::min);
    if next == Tick::NEVER {
        return false;
    }
    clock::pass_to(next);
    all.iter().for_each(|driven| driven.fire(Tick::now()));
    true
}

/// Runs what can run and lets time pass, until it is `until` and everything is done that was due. Starts nothing later than
/// that: there may be no end of what comes while jobs turn the clock.
pub(crate) fn run_to(until: Tick, mut ran: impl FnMut()) {
    loop {
        while Tick::now() <= until && step() {
            ran();
        }
        leave();
        let next = all().iter().map(|driven| driven.next()).fold(Tick::NEVER, Tick::min);
        if until < next {
            return clock::pass_to(until);
        }
        pass(next);
    }
}

/// Waits, until `until` or for a while, for something that the delegator with this address is to do, or, without one, for
/// time to pass. As parking does, it may return early: the caller looks, and calls again.
///
/// # Panics
///
/// When time is virtual and nothing on this thread can ever end the wait.
pub(crate) fn park_until(until: Tick, owner: Option<*const ()>) {
    if clock::is_virtual() { wait(until, owner) } else { sync::park_until(until) }
}

#[cold]
fn wait(until: Tick, owner: Option<*const ()>) {
    if let Some(owner) = owner {
        if !drives(owner) {
            // Threads do that, in their own time.
            let begun = clock::real_now();
            match until.since(Tick::now()) {
                Some(left) if until != Tick::NEVER => std::thread::park_timeout(left),
                _ => std::thread::park(),
            }
            let passed = clock::real_now().since(begun).unwrap_or_default();
            return clock::pass_to(Tick::now().after(passed));
        }
        // Whoever waits looks again after any of this, before time passes.
        if all().iter().any(|driven| driven.step() != Stepped::Idle) || leave() {
            return;
        }
    }
    assert!(
        pass(until),
        "this would wait for ever: nothing can run on the thread of a manual delegator, and nothing is due later",
    );
}
