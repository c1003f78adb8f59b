//! The synchronisation primitives that everything else is built from.
//!
//! Under `--cfg loom` they are the ones that the model checker explores; otherwise parking_lot's locks and std's atomics.
//! What the models do not look into (the clock, thread-local state, `OnceLock`) is std's in both.

#[cfg(not(loom))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    thread::{Thread, current, park, yield_now},
};

#[cfg(loom)]
pub(crate) use self::modelled::{Mutex, MutexGuard};
#[cfg(loom)]
pub(crate) use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    thread::{Thread, current, park, yield_now},
};
pub(crate) use std::sync::{Arc, OnceLock, Weak};

use crate::clock::Tick;

/// Parks the calling thread until it is unparked or `until` is reached. May return early.
pub(crate) fn park_until(until: Tick) {
    if until == Tick::NEVER {
        return park();
    }
    #[cfg(not(loom))]
    if let Some(left) = until.since(Tick::now()) {
        std::thread::park_timeout(left);
    }
    #[cfg(loom)]
    yield_now();
}

/// A value that is reached through ownership alone, so that what holds it is `Sync` though the value is not. The lock is
/// never taken.
#[derive(Default)]
pub(crate) struct Unshared<T>(parking_lot::Mutex<T>);

impl<T> Unshared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

/// Keeps what one side writes off the cache lines that the other side reads (two lines, since processors fetch pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

impl<T> std::ops::Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

#[cfg(loom)]
mod modelled {
    pub(crate) use loom::sync::MutexGuard;

    /// loom's mutex without poisoning, as parking_lot's.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
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
}
