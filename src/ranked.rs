//! What waits beside the channel of the queue: the jobs of high and of low priority.
//!
//! Who takes a job takes it from the highest level at which one waits, but for the ageing: whenever jobs wait at a level and
//! a job of a higher one is taken instead, the level has been passed over once more. Once it has been so as often as
//! [`PATIENCE`] says, it is its turn; if it is the turn of two, the lower goes first. So how long a job waits depends on the
//! jobs that others submit, but never on whether they stop.

use std::collections::VecDeque;

use crate::priority::Priority;
use crate::sync::{AtomicUsize, Mutex, Ordering};

/// How often a level may be passed over in a row: low, normal, high.
const PATIENCE: [u32; 3] = [32, 8, u32::MAX];

pub(crate) struct Ranked<T> {
    /// How many at each level that is not the channel's.
    capacity: usize,
    /// How many can be taken, to be read without the lock. Changes under it.
    ready: AtomicUsize,
    levels: Mutex<Levels<T>>,
}

struct Levels<T> {
    /// The one in the middle is empty: it stands for the channel.
    jobs: [VecDeque<T>; 3],
    passed_over: [u32; 3],
}

impl<T> Ranked<T> {
    pub(crate) fn new(capacity: usize) -> Ranked<T> {
        let levels = Levels { jobs: Default::default(), passed_over: [0; 3] };
        Ranked { capacity, ready: AtomicUsize::new(0), levels: Mutex::new(levels) }
    }

    pub(crate) fn push(&self, item: T, priority: Priority) -> Result<(), T> {
        let mut levels = self.levels.lock();
        let jobs = &mut levels.jobs[priority as usize];
        if jobs.len() >= self.capacity {
            return Err(item);
        }
        jobs.push_back(item);
        self.ready.store(self.ready.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Ok(())
    }

    /// What is to be taken next, with its level. `None` if that is what the channel has; `others_wait` says whether it has
    /// anything.
    pub(crate) fn pop(&self, others_wait: impl Fn() -> bool) -> Option<(T, Priority)> {
        if self.is_empty() {
            return None;
        }
        let mut levels = self.levels.lock();
        let others_wait = others_wait();
        let [low, _, high] = &levels.jobs;
        let waits = [!low.is_empty(), others_wait, !high.is_empty()];
        let priority = levels.choose(waits)?;
        let item = levels.jobs[priority as usize].pop_front()?;
        self.ready.store(self.ready.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        Some((item, priority))
    }

    /// The first of this level, out of turn.
    pub(crate) fn take_oldest(&self, priority: Priority) -> Option<T> {
        let mut levels = self.levels.lock();
        let item = levels.jobs[priority as usize].pop_front()?;
        self.ready.store(self.ready.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        Some(item)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn len(&self, priority: Priority) -> usize {
        self.levels.lock().jobs[priority as usize].len()
    }

    pub(crate) fn room(&self, priority: Priority) -> usize {
        self.capacity - self.len(priority).min(self.capacity)
    }
}

impl<T> Levels<T> {
    fn choose(&mut self, waits: [bool; 3]) -> Option<Priority> {
        const RISING: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];
        let waiting = |priority: &Priority| waits[*priority as usize];
        let is_due =
            |priority: &Priority| self.passed_over[*priority as usize] >= PATIENCE[*priority as usize];
        let due = RISING.into_iter().find(|priority| waiting(priority) && is_due(priority));
        let chosen = due.or_else(|| RISING.into_iter().rev().find(waiting))?;
        for (priority, passed_over) in RISING.into_iter().zip(&mut self.passed_over) {
            if priority == chosen || !waiting(&priority) {
                *passed_over = 0;
            } else if priority < chosen {
                *passed_over += 1;
            }
        }
        Some(chosen)
    }
}
