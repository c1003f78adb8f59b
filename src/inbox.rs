//! Where finished jobs leave their numbers for one thread that waits for many.

use crate::clock::{self, Tick};
use crate::sync::{self, AtomicBool, Mutex, Ordering, Thread, yield_now};

/// How often the waiter looks before it parks.
const YIELDS: u32 = sync::looks(40);

/// Any number of threads put numbers in; one takes them out and may wait for so many.
#[derive(Default)]
pub(crate) struct Inbox {
    /// Whether there are any, to be read without the lock.
    any: AtomicBool,
    arrived: Mutex<Arrived>,
}

#[derive(Default)]
struct Arrived {
    numbers: Vec<u64>,
    /// Who waits, and for how many numbers.
    waiting: Option<(Thread, usize)>,
    /// The next wait is over before it begins.
    nudged: bool,
}

impl Inbox {
    pub(crate) fn put(&self, number: u64) {
        let waiting = {
            let mut arrived = self.arrived.lock();
            arrived.numbers.push(number);
            self.any.store(true, Ordering::Release);
            let there = arrived.numbers.len();
            arrived.waiting.take_if(|(_, wanted)| *wanted <= there)
        };
        if let Some((thread, _)) = waiting {
            thread.unpark();
        }
    }

    /// Has the waiter look around, now or when it is about to wait.
    pub(crate) fn nudge(&self) {
        let waiting = {
            let mut arrived = self.arrived.lock();
            arrived.nudged = true;
            arrived.waiting.take()
        };
        if let Some((thread, _)) = waiting {
            thread.unpark();
        }
    }

    /// What has arrived, in the order of its arrival.
    pub(crate) fn take(&self) -> Vec<u64> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut arrived = self.arrived.lock();
        self.any.store(false, Ordering::Relaxed);
        std::mem::take(&mut arrived.numbers)
    }

    /// Waits, by `park`, until there are so many, `until` is reached, or somebody wakes this thread for another reason.
    pub(crate) fn wait(&self, wanted: usize, until: Tick, park: impl Fn(Tick)) {
        // Where time is virtual, nobody else is at it.
        if wanted == 1 && !clock::is_virtual() {
            for _ in 0..YIELDS {
                if self.any.load(Ordering::Acquire) {
                    return;
                }
                yield_now();
            }
        }
        {
            let mut arrived = self.arrived.lock();
            if std::mem::take(&mut arrived.nudged) || arrived.numbers.len() >= wanted {
                return;
            }
            arrived.waiting = Some((sync::current(), wanted));
        }
        park(until);
        let mut arrived = self.arrived.lock();
        (arrived.waiting, arrived.nudged) = (None, false);
    }
}
