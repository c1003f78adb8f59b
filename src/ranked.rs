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
//!
//! A job that became due when the channel was full is in here as well, without a place: it goes behind as many takes from
//! the channel as there were jobs in it. So the channel and these are one line, in which those who wait for a place of the
//! channel are not before it.

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
    /// Due, but not in the channel: each with the count of takes from the channel that go before it.
    due: VecDeque<(usize, T)>,
    /// How often it was the turn of the channel, as far as it was asked for here.
    takes: usize,
}

impl<T> Ranked<T> {
    pub(crate) fn new(capacity: usize) -> Ranked<T> {
        let levels = Levels {
            jobs: Default::default(),
            reserved: [0; 3],
            passed_over: [0; 3],
            turn_of_the_channel: false,
            due: VecDeque::new(),
            takes: 0,
        };
        Ranked { capacity, ready: AtomicUsize::new(0), levels: Mutex::new(levels) }
    }

    fn add_ready(&self, levels: &mut Levels<T>, item: T, priority: Priority) {
        levels.jobs[priority as usize].push_back(item);
        self.one_more();
    }

    /// Under the lock.
    fn one_more(&self) {
        self.ready.store(self.ready.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Under the lock.
    fn one_less(&self) {
        self.ready.store(self.ready.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    }

    /// Puts an item that is due behind what the channel has.
    pub(crate) fn push_due(&self, item: T, in_the_channel: impl Fn() -> usize) {
        let mut levels = self.levels.lock();
        let after = levels.takes.wrapping_add(in_the_channel());
        levels.due.push_back((after, item));
        self.one_more();
    }

    /// An item was taken from the channel without having been asked for here.
    pub(crate) fn count_a_take(&self) {
        let mut levels = self.levels.lock();
        levels.takes = levels.takes.wrapping_add(1);
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

    /// What is to be taken next, with the level at which it had a place. `None` if that is what the channel has;
    /// `others_wait` says whether it has anything. Nothing is taken that `may_go` does not let go.
    pub(crate) fn pop(
        &self,
        others_wait: impl Fn() -> bool,
        may_go: impl Fn() -> bool,
    ) -> Option<(T, Option<Priority>)> {
        if self.is_empty() {
            return None;
        }
        let mut levels = self.levels.lock();
        let others_wait = others_wait();
        let is_due = levels.is_turn_of_the_due(others_wait);
        let [low, keyed, high] = &levels.jobs;
        let (no_key_waits, key_waits) = (others_wait || is_due, !keyed.is_empty());
        let waits = [!low.is_empty(), no_key_waits || key_waits, !high.is_empty()];
        // Where there is nothing but what is due, nobody is passed over.
        let alone = waits == [false, true, false] && !key_waits;
        let priority = if alone { Priority::Normal } else { levels.choose(waits)? };
        if priority == Priority::Normal && no_key_waits {
            levels.turn_of_the_channel = !key_waits || !levels.turn_of_the_channel;
            if levels.turn_of_the_channel {
                if is_due && may_go() {
                    self.one_less();
                    return levels.due.pop_front().map(|(_, item)| (item, None));
                }
                levels.takes = levels.takes.wrapping_add(1);
                return None;
            }
        }
        if !may_go() {
            return None;
        }
        self.remove_first(&mut levels, priority).map(|item| (item, Some(priority)))
    }

    /// The first of this level, out of turn.
    pub(crate) fn take_oldest(&self, priority: Priority) -> Option<T> {
        self.remove_first(&mut self.levels.lock(), priority)
    }

    fn remove_first(&self, levels: &mut Levels<T>, priority: Priority) -> Option<T> {
        let item = levels.jobs[priority as usize].pop_front()?;
        self.one_less();
        Some(item)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready() == 0
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.load(Ordering::Relaxed)
    }

    /// How many items are here, those that are held back or due included.
    pub(crate) fn len(&self, priority: Priority) -> usize {
        let levels = self.levels.lock();
        let due = if priority == Priority::Normal { levels.due.len() } else { 0 };
        levels.len(priority) + due
    }

    pub(crate) fn room(&self, priority: Priority) -> usize {
        self.capacity.saturating_sub(self.levels.lock().len(priority))
    }
}

impl<T> Levels<T> {
    /// Whether an item that is due goes before what the channel has.
    fn is_turn_of_the_due(&self, others_wait: bool) -> bool {
        // How many takes go before it, as a difference that may be negative.
        let is_past = |after: usize| self.takes.wrapping_sub(after) <= usize::MAX / 2;
        self.due.front().is_some_and(|(after, _)| !others_wait || is_past(*after))
    }

    /// How many places are taken.
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

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_is_neither_taken_nor_reserved() {
        let ranked = Ranked::new(3);
        assert_eq!(ranked.room(Priority::Low), 3);
        assert!(ranked.push('a', Priority::Low, false).is_ok() && ranked.reserve(Priority::Low, false));
        assert_eq!((ranked.room(Priority::Low), ranked.room(Priority::High)), (1, 3));
        assert!(
            ranked.push('b', Priority::Low, true).is_ok() && ranked.push('c', Priority::Low, true).is_ok()
        );
        assert_eq!(ranked.room(Priority::Low), 0);
    }

    #[test]
    fn what_is_due_is_not_late_for_its_turn() {
        let ranked = Ranked::new(3);
        ranked.push_due('d', || 2);
        assert_eq!(ranked.pop(|| true, || true), None);
        // Three of the channel give way to others.
        (0..3).for_each(|_| ranked.count_a_take());
        assert_eq!(ranked.pop(|| true, || true), Some(('d', None)));
    }

    #[test]
    fn a_turn_of_what_is_due_alone_counts_like_one_of_the_channel() {
        for due in [false, true] {
            let ranked = Ranked::new(30);
            let push = |n| (0..n).for_each(|_| assert!(ranked.push('h', Priority::High, false).is_ok()));
            let taken = || std::iter::from_fn(|| ranked.pop(|| true, || true)).count();
            push(5);
            assert_eq!(taken(), 5, "the channel is passed over five times");
            if due {
                ranked.push_due('d', || 0);
                assert_eq!(ranked.pop(|| false, || true), Some(('d', None)));
            } else {
                assert_eq!(ranked.pop(|| true, || true), None);
            }
            push(10);
            assert_eq!(taken(), 3, "{due}");
        }
    }
}
