//! Who wants to be told when a context is done.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};

use super::scope::Scope;
use super::timer::{self, VirtualTimer};
use crate::clock::Tick;
use crate::panics;
use crate::sync::{Arc, Mutex, Padded, Thread, Weak};
use crossbeam_channel::Sender;

/// What made a listener fire, which is also: on whose thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The thread that cancelled, or the one that registered when the context was done already.
    ByCancel,
    /// The timer thread.
    AtDeadline,
}

/// What to do, once, when the context is done.
pub(crate) enum Action {
    Wake(Thread),
    /// Drop the sender that keeps a `done()` receiver connected, and forget the receiver that is kept for the next call.
    Disconnect {
        sender: Sender<Infallible>,
        home: Weak<Scope>,
        deadline: Tick,
    },
    /// End the queued job that has this context.
    EndJob(Box<dyn FnOnce(Ended) + Send>),
    Run(Box<dyn FnOnce() + Send>),
}

/// An action, and the places where it is registered.
///
/// Invariant: who takes the action out runs it or drops it, so it happens at most once. The places may hold a listener
/// whose action is gone only for as long as the one who took it needs to call [`unlist`](Listener::unlist).
pub(crate) struct Listener {
    number: u64,
    homes: Vec<Weak<Scope>>,
    /// Where it waits in the timer; `NEVER` when it does not.
    deadline: Tick,
    /// The timer, where time is virtual.
    timer: Option<Arc<VirtualTimer>>,
    action: Mutex<Option<Action>>,
}

impl Listener {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn virtual_timer(&self) -> Option<&VirtualTimer> {
        self.timer.as_deref()
    }

    /// Does the actions that were not done or withdrawn before: first all that wake somebody, then those that end jobs, then
    /// the functions, so that a function finds everybody else told.
    pub(super) fn fire(listeners: impl IntoIterator<Item = Arc<Listener>>, ended: Ended) {
        let actions = listeners.into_iter().filter_map(|listener| listener.withdraw());
        let (mut jobs, mut functions) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Wake(thread) => thread.unpark(),
                Action::Disconnect { sender, home, deadline } => {
                    if let Some(home) = home.upgrade() {
                        home.forget_receiver(deadline);
                        panics::discard("a context that has ended", home);
                    }
                    drop(sender);
                }
                Action::EndJob(function) => jobs.push(function),
                Action::Run(function) => functions.push(function),
            }
        }
        jobs.into_iter().for_each(|function| function(ended));
        for function in functions {
            if let Err(panic) = panics::contain(function) {
                panics::log(log::Level::Error, format_args!("panic in a function given to on_done: {panic}"));
            }
        }
    }

    /// Takes the action back; `None` when it was done or taken before.
    pub(super) fn withdraw(&self) -> Option<Action> {
        let action = self.action.lock().take();
        if action.is_some() {
            self.unlist();
        }
        action
    }

    fn unlist(&self) {
        for home in &self.homes {
            if let Some(scope) = home.upgrade() {
                scope.unlist(self.number);
                panics::discard("a context that has ended", scope);
            }
        }
        if self.deadline != Tick::NEVER {
            timer::remove(self.deadline, self);
        }
    }
}

/// A registration that ends when it is dropped.
pub(crate) struct Listening(Option<Arc<Listener>>);

impl Listening {
    /// Registers an action with everything that can end a context: each scope from `scope` up and, if `deadline` is one, the
    /// timer. A context that is done already does the action before this returns.
    pub(super) fn start(scope: Option<&Arc<Scope>>, deadline: Tick, action: Action) -> Listening {
        static NEXT: Padded<AtomicU64> = Padded(AtomicU64::new(0));

        let mut homes = Vec::new();
        Scope::each(scope, |scope| homes.push(Arc::downgrade(scope)));
        let listener = Arc::new(Listener {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            homes,
            deadline,
            timer: if deadline == Tick::NEVER { None } else { timer::of_this_thread() },
            action: Mutex::new(Some(action)),
        });
        let mut done = deadline <= Tick::now();
        Scope::each(scope, |scope| done |= !scope.enlist(&listener));
        if done {
            Listener::fire([Arc::clone(&listener)], Ended::ByCancel);
        } else if deadline != Tick::NEVER {
            timer::add(deadline, &listener);
        }
        // A cancel may have fired and unlisted it before the last place was reached.
        if listener.action.lock().is_none() {
            listener.unlist();
        }
        Listening(Some(listener))
    }

    /// Stays registered until the context is done.
    pub(super) fn detach(mut self) {
        self.0 = None;
    }

    /// Whether this prevented the action. The action comes back to be dropped where that is safe.
    pub(super) fn stop(mut self) -> Option<Action> {
        self.0.take().and_then(|listener| listener.withdraw())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(listener) = self.0.take() {
            panics::discard("a listener", listener.withdraw());
        }
    }
}
