//! The primitives under a model checker, with the interfaces of the ones they stand for.
//!
//! They promise no more ordering than those document, so that a model fails where the crate relies on more.

#[cfg(loom)]
pub(crate) use loom as checker;
#[cfg(shuttle)]
pub(crate) use shuttle as checker;

use std::sync::Arc;

pub(crate) use checker::{
    hint::spin_loop,
    sync::MutexGuard,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, fence},
    thread::{Builder, JoinHandle, yield_now},
};
use std::sync::atomic::Ordering;

#[cfg(loom)]
pub(crate) use self::parking::{Thread, current, park};
#[cfg(shuttle)]
pub(crate) use shuttle::thread::{Thread, current, park};

/// As std's, of which the crate uses one form.
macro_rules! local {
    ($(#[$attribute:meta])* static $name:ident: $type:ty = const { $init:expr };) => {
        $crate::sync::checker::thread_local! {
            $(#[$attribute])*
            static $name: $type = $init;
        }
    };
}
pub(crate) use local as thread_local;

/// Without poisoning, as parking_lot's.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(checker::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(checker::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("a model that panics has failed already")
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().expect("a model that panics has failed already")
    }
}

/// Who finds the value has acquired what came before it was set; who does not may be late.
#[derive(Debug)]
pub(crate) struct OnceLock<T> {
    is_set: AtomicBool,
    value: std::sync::OnceLock<T>,
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> OnceLock<T> {
        OnceLock { is_set: AtomicBool::new(false), value: std::sync::OnceLock::new() }
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        self.value.set(value)?;
        self.is_set.store(true, Ordering::Release);
        Ok(())
    }

    pub(crate) fn get(&self) -> Option<&T> {
        if self.is_set.load(Ordering::Acquire) { self.value.get() } else { None }
    }

    pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
        if let Some(value) = self.get() {
            return value;
        }
        let value = self.value.get_or_init(init);
        self.is_set.store(true, Ordering::Release);
        value
    }

    pub(crate) fn take(&mut self) -> Option<T> {
        self.is_set = AtomicBool::new(false);
        self.value.take()
    }
}

#[cfg(loom)]
std::thread_local! {
    /// Whether loom shall try all orders in which threads look at the clock: there are many.
    pub(crate) static CLOCK_MATTERS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(loom)]
pub(crate) fn look_at_the_clock() {
    loom::lazy_static! {
        static ref LOOKS: AtomicU64 = AtomicU64::new(0);
    }

    if CLOCK_MATTERS.get() {
        LOOKS.fetch_add(1, Ordering::Relaxed);
    }
}

/// loom's own parking wakes a thread whatever it is blocked in.
#[cfg(loom)]
mod parking {
    use super::{AtomicU8, Ordering};
    use std::sync::Arc;

    const EMPTY: u8 = 0;
    const PARKED: u8 = 1;
    const NOTIFIED: u8 = 2;

    #[derive(Clone)]
    pub(crate) struct Thread(Arc<Token>);

    struct Token {
        state: AtomicU8,
        thread: loom::thread::Thread,
    }

    loom::thread_local! {
        static CURRENT: Thread =
            Thread(Arc::new(Token { state: AtomicU8::new(EMPTY), thread: loom::thread::current() }));
    }

    pub(crate) fn current() -> Thread {
        CURRENT.with(Thread::clone)
    }

    pub(crate) fn park() {
        let Thread(token) = current();
        let parks = token.state.compare_exchange(EMPTY, PARKED, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if parks {
            loom::thread::park();
        }
        token.state.swap(EMPTY, Ordering::Acquire);
    }

    impl Thread {
        pub(crate) fn id(&self) -> usize {
            Arc::as_ptr(&self.0).addr()
        }

        pub(crate) fn unpark(&self) {
            if self.0.state.swap(NOTIFIED, Ordering::Release) == PARKED {
                self.0.thread.unpark();
            }
        }
    }
}

/// A bounded channel that is only polled. What is promised of one: nothing is lost or doubled, and a message carries with it
/// what its sender did before. A look at it may be late, unless fences forbid it.
pub(crate) mod polled {
    use super::{AtomicUsize, Ordering, yield_now};
    use crossbeam_channel::{TryRecvError, TrySendError};
    use std::sync::{Arc, Mutex as Cell, PoisonError};

    pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
        let place = |lap| Place { turn: AtomicUsize::new(2 * lap), item: Cell::new(None) };
        let ring = Arc::new(Ring {
            places: (0..capacity).map(place).collect(),
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
        });
        (Sender(Arc::clone(&ring)), Receiver(ring))
    }

    pub(crate) struct Sender<T>(Arc<Ring<T>>);
    pub(crate) struct Receiver<T>(Arc<Ring<T>>);

    /// Pushes and pops are numbered; number `n` goes to place `n % capacity`.
    struct Ring<T> {
        places: Box<[Place<T>]>,
        /// The next pop and the next push.
        head: AtomicUsize,
        tail: AtomicUsize,
    }

    struct Place<T> {
        /// `2n` when it is the turn of push `n`, `2n + 1` when it is that of pop `n`.
        turn: AtomicUsize,
        /// Nobody meets here.
        item: Cell<Option<T>>,
    }

    impl<T> Ring<T> {
        fn len(&self) -> usize {
            let head = self.head.load(Ordering::Relaxed);
            self.tail.load(Ordering::Relaxed).saturating_sub(head).min(self.places.len())
        }
    }

    impl<T> Sender<T> {
        pub(crate) fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
            let ring = &*self.0;
            let capacity = ring.places.len();
            let mut number = ring.tail.load(Ordering::Relaxed);
            loop {
                if capacity == 0 {
                    return Err(TrySendError::Full(item));
                }
                let place = &ring.places[number % capacity];
                let turn = place.turn.load(Ordering::Acquire);
                if turn == 2 * number {
                    match ring.tail.compare_exchange(number, number + 1, Ordering::Relaxed, Ordering::Relaxed)
                    {
                        Ok(_) => {
                            *place.item.lock().unwrap_or_else(PoisonError::into_inner) = Some(item);
                            place.turn.store(2 * number + 1, Ordering::Release);
                            return Ok(());
                        }
                        Err(tail) => number = tail,
                    }
                } else if turn < 2 * number && ring.head.load(Ordering::Relaxed) + capacity <= number {
                    return Err(TrySendError::Full(item));
                } else {
                    yield_now();
                    number = ring.tail.load(Ordering::Relaxed);
                }
            }
        }

        pub(crate) fn is_full(&self) -> bool {
            self.0.len() == self.0.places.len()
        }

        pub(crate) fn len(&self) -> usize {
            self.0.len()
        }

        pub(crate) fn capacity(&self) -> Option<usize> {
            Some(self.0.places.len())
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
            let ring = &*self.0;
            let capacity = ring.places.len();
            let mut number = ring.head.load(Ordering::Relaxed);
            loop {
                if capacity == 0 {
                    return Err(TryRecvError::Empty);
                }
                let place = &ring.places[number % capacity];
                let turn = place.turn.load(Ordering::Acquire);
                if turn == 2 * number + 1 {
                    match ring.head.compare_exchange(number, number + 1, Ordering::Relaxed, Ordering::Relaxed)
                    {
                        Ok(_) => {
                            let item = place.item.lock().unwrap_or_else(PoisonError::into_inner).take();
                            place.turn.store(2 * (number + capacity), Ordering::Release);
                            return item.ok_or(TryRecvError::Empty);
                        }
                        Err(head) => number = head,
                    }
                } else if turn <= 2 * number && ring.tail.load(Ordering::Relaxed) <= number {
                    return Err(TryRecvError::Empty);
                } else {
                    yield_now();
                    number = ring.head.load(Ordering::Relaxed);
                }
            }
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.0.len() == 0
        }

        pub(crate) fn len(&self) -> usize {
            self.0.len()
        }
    }
}

/// A channel that may be waited on. None of them is ever full.
pub(crate) mod channel {
    use super::{Arc, Mutex, Thread, current, park};
    use crossbeam_channel::{RecvError, SendError};
    use std::collections::VecDeque;

    struct State<T> {
        messages: VecDeque<T>,
        senders: usize,
        waiting: Vec<Thread>,
    }

    pub(crate) struct Sender<T>(Arc<Mutex<State<T>>>);
    pub(crate) struct Receiver<T>(Arc<Mutex<State<T>>>);

    pub(crate) fn bounded<T>(_: usize) -> (Sender<T>, Receiver<T>) {
        unbounded()
    }

    pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
        let state = State { messages: VecDeque::new(), senders: 1, waiting: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        (Sender(Arc::clone(&state)), Receiver(state))
    }

    impl<T> Sender<T> {
        pub(crate) fn send(&self, message: T) -> Result<(), SendError<T>> {
            self.change(|state| state.messages.push_back(message));
            Ok(())
        }

        fn change(&self, change: impl FnOnce(&mut State<T>)) {
            let mut state = self.0.lock();
            change(&mut state);
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.into_iter().for_each(|thread| thread.unpark());
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Sender<T> {
            self.0.lock().senders += 1;
            Sender(Arc::clone(&self.0))
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.change(|state| state.senders -= 1);
        }
    }

    impl<T> Clone for Receiver<T> {
        fn clone(&self) -> Receiver<T> {
            Receiver(Arc::clone(&self.0))
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn try_recv(&self) -> Option<T> {
            self.0.lock().messages.pop_front()
        }

        pub(crate) fn recv(&self) -> Result<T, RecvError> {
            loop {
                let mut state = self.0.lock();
                if let Some(message) = state.messages.pop_front() {
                    return Ok(message);
                }
                if state.senders == 0 {
                    return Err(RecvError);
                }
                state.waiting.push(current());
                drop(state);
                park();
            }
        }
    }
}
