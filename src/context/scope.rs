//! The part of a context that can be cancelled.
//!
//! 1. Scopes point to their parents, never down. Deriving touches nothing but the reference count of the parent.
//! 2. A scope is done when it or a scope above it is cancelled. That is asked by walking up, so it costs the depth.
//! 3. Only listeners are registered, with each scope from theirs up. A cancel takes the lock of its own scope, flags it,
//!    takes the listeners out, gives the lock back, and only then fires them: no lock is ever taken under another, and no
//!    user code runs under one. A listener that registers checks the flag under the same lock, so it is either taken out by
//!    the cancel or sees the flag.
//! 4. What ended a context is a function of instants that never change: the deadline and the cancels of its scopes; the
//!    earliest counts. See [`Scope::first_cancel`] for why everybody, however late, gets the same answer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use super::listener::{Action, Ended, Listener, Listening};
use crate::alarm;
use crate::clock::Tick;
use crate::engine::Engine;
use crate::error::Error;
use crate::notes::Notes;
use crate::panics;
use crate::provenance::{Cancel, Cancelled};
use crate::sync::{self, Arc, AtomicBool, AtomicU64, Mutex, OnceLock, Ordering, Weak, fence};
use crossbeam_channel::{Receiver, bounded};

/// [`Scope::cancelled`] before a cancel, and between a cancel's flag and its instant. Ticks are never this small.
const LIVE: u64 = 0;
const CANCELLING: u64 = 1;

pub(crate) struct Scope {
    parent: Option<Arc<Scope>>,
    /// The scope of the delegator that runs the job; `None` in every other scope.
    host: Option<Arc<Scope>>,
    /// `LIVE`, `CANCELLING`, or the tick of the cancel. Leaves `LIVE` under the lock of `listeners`.
    cancelled: AtomicU64,
    /// Set before `cancelled` leaves `LIVE`.
    cancel: OnceLock<Arc<Cancel>>,
    /// Whether anybody ever listened to this very scope.
    listened: AtomicBool,
    about: OnceLock<About>,
    /// Whether a job ran under it, ever: then somebody wants to know whether it still does, some time after a cancel.
    employed: AtomicBool,
    listeners: Mutex<Listeners>,
}

/// What else there is to know about a scope.
enum About {
    /// It is the host of a delegator's jobs.
    Host(Weak<Engine>),
    /// It is the scope for all attempts of a job: what cancels the job cancels it.
    Attempts,
    /// It is the scope of a job whose operation has said something.
    Job(Arc<Notes>),
}

/// What ended a context.
#[derive(Debug, Clone)]
pub(crate) enum End {
    Deadline(Tick),
    Cancel(Cancelled),
}

impl From<End> for Error {
    fn from(end: End) -> Error {
        match end {
            End::Deadline(deadline) => Error::deadline_exceeded(deadline),
            End::Cancel(cancelled) => Error::cancelled(cancelled),
        }
    }
}

#[derive(Default)]
struct Listeners {
    /// By number, which is the order of registration. Empty once cancelled.
    listening: BTreeMap<u64, Arc<Listener>>,
    /// The receivers that `done()` gave, by the deadline of the context that was asked: a context is done when its scope
    /// is or its deadline has passed, so contexts that share both share the receiver.
    receivers: BTreeMap<Tick, Receiver<Infallible>>,
}

impl Scope {
    pub(crate) fn new(parent: Option<Arc<Scope>>, host: Option<Arc<Scope>>) -> Arc<Scope> {
        Arc::new(Scope {
            parent,
            host,
            cancelled: AtomicU64::new(LIVE),
            cancel: OnceLock::new(),
            listened: AtomicBool::new(false),
            about: OnceLock::new(),
            employed: AtomicBool::new(false),
            listeners: Mutex::default(),
        })
    }

    /// A scope for all attempts of a job, whose own scopes will be below it.
    pub(crate) fn for_attempts(parent: Option<Arc<Scope>>) -> Arc<Scope> {
        let scope = Scope::new(parent, None);
        let _ = scope.about.set(About::Attempts);
        scope
    }

    /// The scope whose cancel is that of the job which this is the scope of.
    pub(crate) fn of_all_attempts(scope: Arc<Scope>) -> Arc<Scope> {
        match &scope.parent {
            Some(parent) if matches!(parent.about.get(), Some(About::Attempts)) => Arc::clone(parent),
            _ => scope,
        }
    }

    /// Tells a new scope whose jobs it is to be the host of.
    pub(crate) fn belongs_to(&self, owner: Weak<Engine>) {
        let _ = self.about.set(About::Host(owner));
    }

    /// What the operation of the job with this very scope has said.
    pub(crate) fn notes(&self) -> Option<&Arc<Notes>> {
        match self.about.get() {
            Some(About::Job(notes)) => Some(notes),
            _ => None,
        }
    }

    /// The same, made if there is none. For the owner, with the lock that keeps the job on its worker.
    pub(crate) fn notes_or(&self, new: impl FnOnce() -> Notes) {
        self.about.get_or_init(|| About::Job(Arc::new(new())));
    }

    /// The notes of the job that this scope is of or below. `None` where there is no job, or where it has ended without.
    pub(super) fn notes_of_job(scope: Option<&Arc<Scope>>) -> Option<&Arc<Notes>> {
        let mut next = scope;
        let (scope, host) = loop {
            let scope = next?;
            match &scope.host {
                Some(host) => break (scope, host),
                None => next = scope.parent.as_ref(),
            }
        };
        if scope.about.get().is_none() {
            if let Some(About::Host(owner)) = host.about.get() {
                let owner = owner.upgrade();
                if let Some(owner) = &owner {
                    owner.begin_notes(scope);
                }
                // It may be the last reference, when the context was kept.
                panics::discard("a delegator", owner);
            }
        }
        scope.notes()
    }

    /// Calls `visit` with each scope from this one up, hosts included.
    pub(super) fn each<'a>(scope: Option<&'a Arc<Scope>>, mut visit: impl FnMut(&'a Arc<Scope>)) {
        let mut next = scope;
        while let Some(scope) = next {
            visit(scope);
            if let Some(host) = &scope.host {
                visit(host);
            }
            next = scope.parent.as_ref();
        }
    }

    /// Whether this scope or one above it is cancelled.
    pub(crate) fn is_done(scope: Option<&Arc<Scope>>) -> bool {
        let mut next = scope;
        while let Some(scope) = next {
            if scope.is_cancelled() || scope.host.as_ref().is_some_and(|host| host.is_cancelled()) {
                return true;
            }
            next = scope.parent.as_ref();
        }
        false
    }

    /// Whether this very scope is cancelled.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) != LIVE
    }

    /// The earliest cancel among this scope and those above it.
    ///
    /// Only call it after [`is_done`](Scope::is_done) or a passed deadline, with the clock read before: then a cancel
    /// that the second walk does not see yet is later than what the first saw and gave an instant to, since a cancel
    /// reads the clock after it has raised its flag. So the answer cannot change any more. The fences keep flags and
    /// clock in this order.
    pub(super) fn first_cancel(scope: Option<&Arc<Scope>>) -> Option<Cancelled> {
        fence(Ordering::SeqCst);
        Scope::each(scope, |scope| {
            let _ = scope.cancelled_at();
        });
        fence(Ordering::SeqCst);
        let mut first: Option<(Tick, &Arc<Scope>)> = None;
        Scope::each(scope, |scope| {
            if let Some(tick) = scope.cancelled_at() {
                if first.is_none_or(|(earliest, _)| tick < earliest) {
                    first = Some((tick, scope));
                }
            }
        });
        let (at, cancelled) = first?;
        let is_own = |own: &Arc<Scope>| {
            Arc::ptr_eq(own, cancelled) || own.host.as_ref().is_some_and(|host| Arc::ptr_eq(host, cancelled))
        };
        let cancel = Arc::clone(cancelled.cancel.get()?);
        Some(Cancelled { cancel, at, inherited: !scope.is_some_and(is_own) })
    }

    /// What a cancel of this scope or one above it means to a job.
    pub(crate) fn end(scope: &Arc<Scope>) -> Option<End> {
        if !Scope::is_done(Some(scope)) {
            return None;
        }
        Scope::first_cancel(Some(scope)).map(End::Cancel)
    }

    /// When this scope was cancelled. Who comes between the flag and the instant supplies an instant itself.
    fn cancelled_at(&self) -> Option<Tick> {
        match self.cancelled.load(Ordering::Acquire) {
            LIVE => None,
            CANCELLING => Some(self.stamp()),
            tick => Some(Tick::from_bits(tick)),
        }
    }

    fn stamp(&self) -> Tick {
        let mut now = Tick::now();
        // A clock may stand still for a moment. Who has seen a cancel further up must not see this one before it.
        let mut above = |scope: &Arc<Scope>| {
            if let Some(at) = scope.cancelled_at() {
                now = now.max(at.after(Duration::from_nanos(1)));
            }
        };
        self.host.iter().for_each(&mut above);
        Scope::each(self.parent.as_ref(), above);
        match self.cancelled.compare_exchange(CANCELLING, now.bits(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => now,
            Err(earlier) => Tick::from_bits(earlier),
        }
    }

    /// Cancels this scope and tells who listens. Only the first call counts.
    pub(crate) fn cancel(&self, cancel: Arc<Cancel>) {
        let mut listeners = self.listeners.lock();
        if self.is_cancelled() {
            drop(listeners);
            return panics::discard("the cause of a cancel", cancel);
        }
        // Nobody else sets it: `cancelled` is `LIVE` and the lock is held.
        let _ = self.cancel.set(cancel);
        self.cancelled.swap(CANCELLING, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.stamp();
        let told = std::mem::take(&mut listeners.listening);
        drop(listeners);
        if self.employed.load(Ordering::Relaxed) {
            alarm::set_all_for_end();
        }
        Listener::fire(told.into_values(), Ended::ByCancel);
    }

    /// A job runs under this scope. `true` if one above it was cancelled meanwhile by somebody who may not have known.
    pub(crate) fn employ(scope: &Arc<Scope>) -> bool {
        let mut is_new = false;
        let mut next = scope.parent.as_ref();
        while let Some(scope) = next {
            if !scope.employed.load(Ordering::Relaxed) {
                scope.employed.store(true, Ordering::Relaxed);
                is_new = true;
            }
            next = scope.parent.as_ref();
        }
        if !is_new {
            return false;
        }
        // With the one in `cancel`: either that sees the flag or this the cancel.
        fence(Ordering::SeqCst);
        Scope::is_done(Some(scope))
    }

    /// The earliest cancel among this scope and those above it. Unlike [`first_cancel`](Scope::first_cancel) it may be too
    /// late by a moment.
    pub(crate) fn cancelled_since(scope: &Arc<Scope>) -> Option<Tick> {
        let mut first = None;
        Scope::each(Some(scope), |scope| {
            if let Some(tick) = scope.cancelled_at() {
                first = Some(first.map_or(tick, |earlier: Tick| earlier.min(tick)));
            }
        });
        first
    }

    /// `false` when the scope is cancelled: then nobody will take the listener out again.
    pub(super) fn enlist(&self, listener: &Arc<Listener>) -> bool {
        let mut listeners = self.listeners.lock();
        if self.is_cancelled() {
            return false;
        }
        self.listened.store(true, Ordering::Relaxed);
        listeners.listening.insert(listener.number(), Arc::clone(listener));
        true
    }

    pub(super) fn unlist(&self, number: u64) {
        let listener = self.listeners.lock().listening.remove(&number);
        // Not the last reference, but its drop belongs behind the lock all the same.
        drop(listener);
    }

    /// The receiver that disconnects when this scope is done or the deadline passes.
    pub(super) fn receiver(self: &Arc<Self>, deadline: Tick) -> Receiver<Infallible> {
        let (sender, receiver) = {
            let mut listeners = self.listeners.lock();
            if let Some(receiver) = listeners.receivers.get(&deadline) {
                return receiver.clone();
            }
            let (sender, receiver) = bounded(0);
            listeners.receivers.insert(deadline, receiver.clone());
            (sender, receiver)
        };
        let action = Action::Disconnect { sender, home: Arc::downgrade(self), deadline };
        Listening::start(Some(self), deadline, action).detach();
        receiver
    }

    pub(super) fn forget_receiver(&self, deadline: Tick) {
        let receiver = self.listeners.lock().receivers.remove(&deadline);
        drop(receiver);
    }

    /// Whether the scope of a finished job, of which the job's worker and its slot hold the only references, is as new.
    pub(crate) fn is_untouched(scope: &Arc<Scope>) -> bool {
        let unshared = Arc::strong_count(scope) == 2;
        // What others did through their references comes before they gave them up.
        fence(sync::BY_COUNT);
        unshared
            && scope.parent.is_none()
            && !scope.is_cancelled()
            && !scope.listened.load(Ordering::Relaxed)
            && scope.notes().is_none()
    }

    #[cfg(all(test, loom))]
    pub(super) fn listeners(&self) -> usize {
        self.listeners.lock().listening.len()
    }
}

impl Drop for Scope {
    /// Takes the chain down in a loop: a drop that recursed would overflow the stack on a long one.
    ///
    /// With the last context of a finished job goes whatever listens to it. Other contexts are listened to for as long as
    /// something above them can end them.
    fn drop(&mut self) {
        if self.host.is_some() {
            let listeners = std::mem::take(self.listeners.get_mut());
            for listener in listeners.listening.into_values() {
                panics::discard("a listener of a finished job", listener.withdraw());
            }
        }
        let mut next = self.parent.take();
        while let Some(scope) = next {
            next = Arc::into_inner(scope).and_then(|mut scope| scope.parent.take());
        }
    }
}
