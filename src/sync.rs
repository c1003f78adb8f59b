//! The synchronisation primitives that everything else is built from.
//!
//! Normally they are parking_lot's locks, crossbeam's channels and what std has. Under `--cfg loom` and `--cfg shuttle` they
//! are the ones that a model checker schedules; see `src/models`. What the models do not look into is the same in both:
//! reference counts, the process-wide timer, and the clock, which under a model checker counts its readings.

#[cfg(any(loom, shuttle))]
mod modelled;

#[cfg(any(loom, shuttle))]
pub(crate) use self::modelled::*;
#[cfg(not(any(loom, shuttle)))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
pub(crate) use std::sync::{Arc, Weak, atomic::Ordering};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::{
    hint::spin_loop,
    sync::OnceLock,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, fence},
    thread::{Builder, JoinHandle, Thread, current, park, yield_now},
    thread_local,
};

/// Channels of the crate's own. Those that users see are crossbeam's under a model checker too.
pub(crate) mod channel {
    #[cfg(any(loom, shuttle))]
    pub(crate) use super::modelled::channel::*;
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

    pub(crate) use crossbeam_channel::RecvTimeoutError;

    use crate::clock::Tick;

    /// Receives, until this tick at the latest.
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) fn recv_until<T>(receiver: &Receiver<T>, until: Tick) -> Result<T, RecvTimeoutError> {
        match until.instant() {
            Some(instant) => receiver.recv_deadline(instant),
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// Time passes as soon as nobody else has anything to do, or earlier.
    #[cfg(any(loom, shuttle))]
    pub(crate) fn recv_until<T>(receiver: &Receiver<T>, until: Tick) -> Result<T, RecvTimeoutError> {
        if until == Tick::NEVER {
            return receiver.recv().map_err(|_| RecvTimeoutError::Disconnected);
        }
        super::yield_now();
        receiver.try_recv().ok_or(RecvTimeoutError::Timeout)
    }
}

/// A bounded channel that is only polled.
pub(crate) mod polled {
    #[cfg(any(loom, shuttle))]
    pub(crate) use super::modelled::polled::*;
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) use crossbeam_channel::{Receiver, Sender, bounded};
}

use crate::clock::Tick;

/// For a fence behind which everything is to be seen that happened before a reference was given up. A model checker does not
/// see how counts order it.
pub(crate) const BY_COUNT: Ordering = if cfg!(loom) { Ordering::SeqCst } else { Ordering::Acquire };

/// How often to look before doing something dearer. A model checker tries all timings anyway.
pub(crate) const fn looks(count: u32) -> u32 {
    if cfg!(any(loom, shuttle)) { 0 } else { count }
}

/// Parks the calling thread until it is unparked or `until` is reached. May return early.
pub(crate) fn park_until(until: Tick) {
    if until == Tick::NEVER {
        return park();
    }
    #[cfg(not(any(loom, shuttle)))]
    if let Some(left) = until.since(Tick::now()) {
        std::thread::park_timeout(left);
    }
    #[cfg(any(loom, shuttle))]
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
