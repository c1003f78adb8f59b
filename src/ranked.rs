//! What waits beside the channel of the queue: the jobs of high and of low priority, and at the level of the channel those
//! with a key.
//!
//! A job that its key holds back is not in here, but its place is: it is reserved.
//!
//! Who takes a job takes it from the highest level at which one waits, but for the ageing: whenever jobs wait at a level and
//! a job of a higher one is taken instead, the level has been passed over once more. Once it has been so as often as
//! [`PATIENCE`] says, it is its turn; if it is the turn of two, the lower goes first. So how long a job waits depends on the
//! jobs that others submit, but never on whether they stop. At the level of the channel, jobs with a key and jobs without
//! take turns.

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
    /// In the middle, those with a key.
    jobs: [VecDeque<T>; 3],
    /// Places of jobs that are held back.
    reserved: [usize; 3],
    passed_over: [u32; 3],
    /// Of those in the middle, it is the turn of the channel.
    turn_of_the_channel: bool,
}

impl<T> Ranked<T> {
    pub(crate) fn new(capacity: usize) -> Ranked<T> {
        let levels = Levels {
            jobs: Default::default(),
            reserved: [0; 3],
            passed_over: [0; 3],
            turn_of_the_channel: false,
        };
        Ranked { capacity, ready: AtomicUsize::new(0), levels: Mutex::new(levels) }
    }

    fn add_ready(&self, levels: &mut Levels<T>, item: T, priority: Priority) {
        levels.jobs[priority as usize].push_back(item);
        self.ready.store(self.ready.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// `force`: also where there is no room.
    pub(crate) fn push(&self, item: T, priority: Priority, force: bool) -> Result<(), T> {
        let mut levels = self.levels.lock();
        if !force && levels.len(priority) >= self.capacity {
            return Err(item);
        }
        self.add_ready(&mut levels, item, priority);
        Ok(())
    }

    /// Takes a place for an item that is not to be taken yet. `false` if there is none.
    pub(crate) fn reserve(&self, priority: Priority, force: bool) -> bool {
        let mut levels = self.levels.lock();
        let has_room = force || levels.len(priority) < self.capacity;
        levels.reserved[priority as usize] += usize::from(has_room);
        has_room
    }

    /// Puts the item into the place that was reserved for it.
    pub(crate) fn push_reserved(&self, item: T, priority: Priority) {
        let mut levels = self.levels.lock();
        levels.reserved[priority as usize] -= 1;
        self.add_ready(&mut levels, item, priority);
    }

    pub(crate) fn give_up_reserved(&self, priority: Priority) {
        self.levels.lock().reserved[priority as usize] -= 1;
    }

    /// What is to be taken next, with its level. `None` if that is what the channel has; `others_wait` says whether it has
    /// anything.
    pub(crate) fn pop(&self, others_wait: impl Fn() -> bool) -> Option<(T, Priority)> {
        if self.is_empty() {
            return None;
        }
        let mut levels = self.levels.lock();
        let others_wait = others_wait();
        let [low, keyed, high] = &levels.jobs;
        let waits = [!low.is_empty(), others_wait || !keyed.is_empty(), !high.is_empty()];
        let priority = levels.choose(waits)?;
        if priority == Priority::Normal && others_wait {
            levels.turn_of_the_channel = !levels.turn_of_the_channel;
            if levels.turn_of_the_channel {
                return None;
            }
        }
        self.remove_first(&mut levels, priority).map(|item| (item, priority))
    }

    /// The first of this level, out of turn.
    pub(crate) fn take_oldest(&self, priority: Priority) -> Option<T> {
        self.remove_first(&mut self.levels.lock(), priority)
    }

    fn remove_first(&self, levels: &mut Levels<T>, priority: Priority) -> Option<T> {
        let item = levels.jobs[priority as usize].pop_front()?;
        self.ready.store(self.ready.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        Some(item)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready() == 0
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.load(Ordering::Relaxed)
    }

    /// How many places are taken.
    pub(crate) fn len(&self, priority: Priority) -> usize {
        self.levels.lock().len(priority)
    }

    pub(crate) fn room(&self, priority: Priority) -> usize {
        self.capacity - self.len(priority).min(self.capacity)
    }
}

impl<T> Levels<T> {
    fn len(&self, priority: Priority) -> usize {
        self.jobs[priority as usize].len() + self.reserved[priority as usize]
    }

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
