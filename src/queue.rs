//! The bounded queue between submitters and workers, and who sleeps when.
//!
//! The queue is a crossbeam channel that is only ever polled: its blocking calls would wake a sleeper for every job. Who
//! finds it empty or full waits here instead.
//!
//! Workers. Each is busy, *searching* (polling for a short while) or *sleeping*.
//!
//! 1. A push wakes a sleeper only if nobody is searching. Whoever wakes a sleeper counts it as searching at once, so that
//!    pushes during the time it takes to wake up wake nobody else.
//! 2. The last searcher that finds a job looks whether there is more, and if so wakes the next: pushes that saw it
//!    searching relied on it.
//! 3. Before it sleeps, a worker puts itself on the list, stops counting as searching, and looks once more. A push puts its
//!    job in and then looks for searchers and sleepers. With a full fence between the two steps on both sides, one of them
//!    sees the other.
//!
//! Submitters that found the queue full line up in the order of their arrival, by the same protocol with the roles swapped:
//! a pop makes room and then looks whether somebody is lined up; who lines up looks for room once more. To call one for
//! every place would make a switch of threads for every job. So
//!
//! 4. a pop calls the first in the line only when nobody is called already, and then only when a good part of the queue is
//!    free or the line is *urgent*: somebody in it has waited for a moment and found no room;
//! 5. whoever was called calls the next, if there is room by the same rule, when it has taken its place or gone.
//!
//! Priorities. The channel is the level of the jobs that have none. The two others come to be with the first job that has
//! one, each with the same capacity and a line of its own; workers sleep and search for all of them together. Jobs with a
//! key and no priority have a level of their own in the same way. Without a queue there is nothing to overtake in, so with a
//! capacity of zero all jobs are alike.
//!
//! A job that has become due goes in also where there is no room: it was accepted long before those that wait for it.

use std::collections::VecDeque;

use crate::priority::{Level, Priority};
use crate::ranked::Ranked;
use crate::sync::polled::{Receiver, Sender, bounded};
use crate::sync::{
    self, Arc, AtomicBool, AtomicU8, AtomicUsize, Mutex, OnceLock, Ordering, Padded, Thread, fence,
    spin_loop, yield_now,
};

/// How often a searching worker looks for a job before it yields its core between looks, and before it goes to sleep.
const SPINS: u32 = sync::looks(48);
const YIELDS: u32 = sync::looks(40);

/// For how many turns a worker that has found the queue empty leaves it alone before it looks again. Each look takes the
/// submitter's cache line away; a submitter that is slower than the workers would pay for that with every job. Who waits for
/// one job at a time pays for a longer rest.
const REST: u32 = sync::looks(8);

/// What the queue accepts and serves. It only ever goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Everything.
    Open = 0,
    /// Nothing more is accepted; what is in is served.
    Draining = 1,
    /// Nothing is accepted or served.
    Stopped = 2,
}

pub(crate) struct Queue<T> {
    sender: Sender<T>,
    receiver: Receiver<T>,
    phase: AtomicU8,
    /// The levels beside the channel, once there has been a job for them.
    levels: OnceLock<Box<Beside<T>>>,
    /// Only for a capacity of zero: how many workers are free and not promised to a job. The channel then has room for a
    /// job per worker, but to get in a job must take one of these.
    free: Option<Padded<AtomicUsize>>,
    /// Of the workers, and of the submitters.
    sleepers: Padded<Sleepers>,
    line: Padded<Line>,
    /// How many workers may search at the same time.
    searchers: usize,
    /// How much room there must be for a line that is not urgent.
    good_part: usize,
}

/// The jobs of high and of low priority and those with a key, and who waits to submit more of them.
struct Beside<T> {
    jobs: Ranked<T>,
    low: Padded<Line>,
    keyed: Padded<Line>,
    high: Padded<Line>,
}

#[derive(Default)]
struct Sleepers {
    searching: AtomicUsize,
    /// The length of `list`, to be read without its lock.
    sleeping: AtomicUsize,
    /// The last to fall asleep is the first to be woken: its stack is the warmest.
    list: Mutex<Vec<Arc<Parker>>>,
}

#[derive(Default)]
struct Line {
    /// The length of `list`, to be read without its lock.
    waiting: AtomicUsize,
    /// How many were called and have neither taken a place nor gone yet. Changes under the lock of `list`.
    called: AtomicUsize,
    /// Any room is to be called out. Changes under the lock of `list`.
    urgent: AtomicBool,
    list: Mutex<VecDeque<Arc<Parker>>>,
}

impl Line {
    /// Takes everybody off, to be woken.
    fn send_away(&self) -> VecDeque<Arc<Parker>> {
        let mut list = self.list.lock();
        self.waiting.store(0, Ordering::Relaxed);
        list.iter().for_each(|parker| parker.notify());
        std::mem::take(&mut *list)
    }
}

/// A thread that can be on one of the lists.
pub(crate) struct Parker {
    thread: Thread,
    notified: AtomicBool,
}

impl Parker {
    pub(crate) fn of_this_thread() -> Arc<Parker> {
        Arc::new(Parker { thread: sync::current(), notified: AtomicBool::new(false) })
    }

    /// Whether somebody has taken it off a list to wake it.
    pub(crate) fn is_notified(&self) -> bool {
        self.notified.load(Ordering::Acquire)
    }

    /// To be called under the lock of the list that it was taken off: who finds itself off the list will not be notified
    /// when it is on it again.
    fn notify(&self) {
        self.notified.store(true, Ordering::Release);
    }

    /// The second half, without the lock. Harmless when it comes late.
    fn wake(&self) {
        self.thread.unpark();
    }
}

/// Why a worker stopped sleeping.
enum Slept<T> {
    /// Not at all: there was a job.
    Found(T),
    /// The queue is closed.
    Closed,
    /// Woken to search; it counts as searching.
    Woken,
}

impl<T> Queue<T> {
    /// `spare` is how many workers more than these may be free at the same time.
    pub(crate) fn new(capacity: usize, workers: usize, spare: usize) -> Queue<T> {
        let (sender, receiver) =
            bounded(if capacity == 0 { workers.saturating_add(spare) } else { capacity });
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Queue {
            sender,
            receiver,
            phase: AtomicU8::new(Phase::Open as u8),
            levels: OnceLock::new(),
            free: (capacity == 0).then(|| Padded(AtomicUsize::new(workers))),
            sleepers: Padded::default(),
            line: Padded::default(),
            searchers: (cores / 2).max(2),
            good_part: (capacity / 4).max(1),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Open,
            1 => Phase::Draining,
            _ => Phase::Stopped,
        }
    }

    /// Moves on to this phase, unless the queue is further already, and wakes everybody to see it.
    pub(crate) fn close(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let sleeping = {
            let mut list = self.sleepers.list.lock();
            self.sleepers.sleeping.store(0, Ordering::Relaxed);
            self.sleepers.searching.fetch_add(list.len(), Ordering::SeqCst);
            list.iter().for_each(|parker| parker.notify());
            std::mem::take(&mut *list)
        };
        let beside = self.levels.get().map(|levels| [&*levels.low, &*levels.keyed, &*levels.high]);
        let lines = beside.into_iter().flatten().chain([&*self.line]);
        let lined_up: Vec<_> = lines.flat_map(Line::send_away).collect();
        sleeping.iter().chain(&lined_up).for_each(|parker| parker.wake());
    }

    /// Puts an item in, or gives it back if there is no room. The phase is for the caller to check, afterwards: a push that
    /// came too late for the last worker is not seen by anybody else.
    pub(crate) fn try_push(&self, item: T) -> Result<(), T> {
        self.place(item)?;
        self.wake_a_searcher();
        Ok(())
    }

    /// The same for an item of this level.
    pub(crate) fn try_push_at(&self, level: Level, item: T) -> Result<(), T> {
        if level == Level::Normal || self.free.is_some() {
            return self.try_push(item);
        }
        self.push_at(level, item, false)
    }

    /// The same beside the channel, and `force` puts it in also where there is no room.
    pub(crate) fn push_at(&self, level: Level, item: T, force: bool) -> Result<(), T> {
        if self.free.is_some() {
            if force {
                self.push_due(level, item);
                return Ok(());
            }
            return self.try_push(item);
        }
        self.beside().jobs.push(item, level.priority(), force)?;
        self.wake_a_searcher();
        Ok(())
    }

    /// Puts in an item that is due, behind what is in, and without a place if there is none. It never waits: those who
    /// submit without end would leave no room for it.
    pub(crate) fn push_due(&self, level: Level, item: T) {
        let Err(item) = self.try_push_at(level, item) else { return };
        let jobs = &self.beside().jobs;
        // Without a queue all are in one line.
        if level == Level::Normal || self.free.is_some() {
            jobs.push_due(item, || self.receiver.len());
        } else {
            let _ = jobs.push(item, level.priority(), true);
        }
        self.wake_a_searcher();
    }

    /// Takes a place for an item that is held back. `false` if there is none; with a capacity of zero there never is.
    pub(crate) fn reserve(&self, level: Level, force: bool) -> bool {
        (force || self.free.is_none()) && self.beside().jobs.reserve(level.priority(), force)
    }

    /// Puts an item into the place that was reserved for it.
    pub(crate) fn push_reserved(&self, level: Level, item: T) {
        if self.free.is_some() {
            self.beside().jobs.give_up_reserved(level.priority());
            return self.push_due(level, item);
        }
        self.beside().jobs.push_reserved(item, level.priority());
        self.wake_a_searcher();
    }

    pub(crate) fn give_up_reserved(&self, level: Level) {
        self.beside().jobs.give_up_reserved(level.priority());
        self.wake_a_submitter(level);
    }

    /// Puts in as many as there is room for, in order, and takes those off the front. Looks once for somebody to wake:
    /// whoever that is wakes the next, by rule 2.
    pub(crate) fn try_push_all(&self, items: &mut VecDeque<T>) {
        while let Some(item) = items.pop_front() {
            if let Err(item) = self.place(item) {
                items.push_front(item);
                break;
            }
        }
        self.wake_a_searcher();
    }

    /// A push without the look for somebody to wake.
    fn place(&self, item: T) -> Result<(), T> {
        if !self.promise() {
            return Err(item);
        }
        self.sender.try_send(item).map_err(|error| error.into_inner())
    }

    #[cold]
    fn beside(&self) -> &Beside<T> {
        self.levels.get_or_init(|| {
            let capacity = self.sender.capacity().unwrap_or(usize::MAX);
            Box::new(Beside {
                jobs: Ranked::new(capacity),
                low: Padded::default(),
                keyed: Padded::default(),
                high: Padded::default(),
            })
        })
    }

    pub(crate) fn is_full(&self, level: Level) -> bool {
        if level == Level::Normal && self.free.is_none() {
            return self.sender.is_full();
        }
        self.room(level) == 0
    }

    /// Whether a job could be taken right now.
    pub(crate) fn is_empty(&self) -> bool {
        self.receiver.is_empty() && self.levels.get().is_none_or(|levels| levels.jobs.is_empty())
    }

    /// The next item, for a worker. `None` once the queue is closed and, if it drains, empty. Also says whether there was
    /// nothing to do meanwhile.
    pub(crate) fn pop(&self, me: &Arc<Parker>) -> Option<(T, bool)> {
        if self.phase() == Phase::Stopped {
            return None;
        }
        match self.try_pop() {
            Some(item) => Some((item, false)),
            None => self.search(me).map(|item| (item, true)),
        }
    }

    /// A worker has done what it popped and is free for the next.
    pub(crate) fn offer(&self) {
        if let Some(free) = &self.free {
            free.fetch_add(1, Ordering::SeqCst);
            self.wake_a_submitter(Level::Normal);
        }
    }

    /// A key may be free: without a queue, submitters wait for that as well.
    pub(crate) fn key_is_free(&self) {
        if self.free.is_some() {
            self.wake_a_submitter(Level::Normal);
        }
    }

    /// The item of this level that has waited longest. Its place is for the caller to fill: nobody is called.
    pub(crate) fn take_oldest(&self, level: Level) -> Option<T> {
        if self.free.is_some() {
            // What is in is promised to workers that are free.
            return None;
        }
        if level != Level::Normal {
            return self.beside().jobs.take_oldest(level.priority());
        }
        let item = self.receiver.try_recv().ok()?;
        if let Some(levels) = self.levels.get() {
            levels.jobs.count_a_take();
        }
        Some(item)
    }

    /// Whether items wait for workers in here, rather than to get in.
    pub(crate) fn holds_any(&self) -> bool {
        self.free.is_none()
    }

    /// An item if there is one, whatever the phase.
    pub(crate) fn try_pop(&self) -> Option<T> {
        match self.levels.get() {
            None => self.try_recv(),
            Some(levels) => self.pop_by_priority(levels),
        }
    }

    fn try_recv(&self) -> Option<T> {
        let item = self.receiver.try_recv().ok()?;
        if self.free.is_none() {
            self.wake_a_submitter(Level::Normal);
        }
        Some(item)
    }

    #[cold]
    fn pop_by_priority(&self, levels: &Beside<T>) -> Option<T> {
        loop {
            if let Some((item, priority)) = levels
                .jobs
                .pop(|| !self.receiver.is_empty(), || self.promise() || self.phase() != Phase::Open)
            {
                priority.into_iter().for_each(|priority| self.wake_after_a_pop(priority));
                return Some(item);
            }
            let item = self.try_recv();
            if item.is_some() || levels.jobs.is_empty() || self.is_promised() {
                return item;
            }
            // It was the turn of an item that somebody else has taken.
        }
    }

    /// Takes one of the free workers for an item. `false` if all are promised to others.
    fn promise(&self) -> bool {
        let take_one = |free: &AtomicUsize| {
            free.fetch_update(Ordering::SeqCst, Ordering::Relaxed, |free| free.checked_sub(1))
        };
        self.free.as_ref().is_none_or(|free| take_one(free).is_ok())
    }

    /// Whether all free workers are promised.
    fn is_promised(&self) -> bool {
        self.free.as_ref().is_some_and(|free| free.load(Ordering::SeqCst) == 0)
    }

    #[cold]
    fn search(&self, me: &Arc<Parker>) -> Option<T> {
        let mut spins = SPINS;
        let mut yields = YIELDS;
        if self.sleepers.searching.fetch_add(1, Ordering::SeqCst) >= self.searchers {
            (spins, yields) = (0, 0);
        } else {
            (0..REST).for_each(|_| spin_loop());
        }
        loop {
            for look in 0..spins + yields {
                if self.phase() != Phase::Open {
                    break;
                }
                if !self.is_empty() {
                    if let Some(item) = self.try_pop() {
                        self.stop_searching();
                        return Some(item);
                    }
                }
                if look < spins { spin_loop() } else { yield_now() }
            }
            match self.sleep(me) {
                Slept::Found(item) => return Some(item),
                Slept::Closed => return None,
                Slept::Woken => (spins, yields) = (SPINS, YIELDS),
            }
        }
    }

    /// Sleeps until there may be something to do. The caller counts as searching, and does not any more unless woken.
    fn sleep(&self, me: &Arc<Parker>) -> Slept<T> {
        let sleepers = &*self.sleepers;
        me.notified.store(false, Ordering::Relaxed);
        {
            let mut list = sleepers.list.lock();
            list.push(Arc::clone(me));
            sleepers.sleeping.store(list.len(), Ordering::Relaxed);
        }
        sleepers.searching.fetch_sub(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // Rule 3: a push that did not see this worker on the list is seen here, and so is a change of phase.
        let phase = self.phase();
        if phase != Phase::Open {
            // A push whose submitter found the queue open afterwards is seen as well. A worker that leaves looks once more, under
            // a lock; so no model fails without this.
            fence(Ordering::SeqCst);
        }
        let item = if phase == Phase::Stopped { None } else { self.try_pop() };
        if item.is_none() && phase == Phase::Open {
            while !me.is_notified() {
                sync::park();
            }
            return Slept::Woken;
        }
        let on_the_list = {
            let mut list = sleepers.list.lock();
            let before = list.len();
            list.retain(|parker| !Arc::ptr_eq(parker, me));
            sleepers.sleeping.store(list.len(), Ordering::Relaxed);
            list.len() < before
        };
        if !on_the_list {
            // Whoever took it off counted it as searching.
            sleepers.searching.fetch_sub(1, Ordering::SeqCst);
        }
        match item {
            Some(item) => {
                self.wake_for_the_rest();
                Slept::Found(item)
            }
            None => Slept::Closed,
        }
    }

    fn stop_searching(&self) {
        if self.sleepers.searching.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.wake_for_the_rest();
        }
    }

    /// Rule 2. The caller has just stopped to count as searching.
    fn wake_for_the_rest(&self) {
        fence(Ordering::SeqCst);
        if !self.is_empty() {
            self.wake_a_searcher();
        }
    }

    /// Rule 1.
    fn wake_a_searcher(&self) {
        fence(Ordering::SeqCst);
        let sleepers = &*self.sleepers;
        if sleepers.sleeping.load(Ordering::Relaxed) > 0 && sleepers.searching.load(Ordering::Relaxed) == 0 {
            self.wake_a_sleeper();
        }
    }

    #[cold]
    fn wake_a_sleeper(&self) {
        let sleepers = &*self.sleepers;
        let parker = {
            let mut list = sleepers.list.lock();
            if sleepers.searching.load(Ordering::Relaxed) > 0 {
                return;
            }
            let Some(parker) = list.pop() else { return };
            sleepers.sleeping.store(list.len(), Ordering::Relaxed);
            sleepers.searching.fetch_add(1, Ordering::SeqCst);
            parker.notify();
            parker
        };
        parker.wake();
    }

    /// What was popped beside the channel left a place there.
    fn wake_after_a_pop(&self, priority: Priority) {
        self.wake_a_submitter(Level::new(priority, true));
    }

    fn wake_a_submitter(&self, level: Level) {
        fence(Ordering::SeqCst);
        let line = self.line(level);
        if line.waiting.load(Ordering::Relaxed) > 0 && line.called.load(Ordering::Relaxed) == 0 {
            self.call_the_next(line, level);
        }
    }

    #[cold]
    fn call_the_next(&self, line: &Line, level: Level) {
        let room = self.room(level);
        if room == 0 || (room < self.good_part && !line.urgent.load(Ordering::Relaxed)) {
            return;
        }
        let parker = {
            let mut list = line.list.lock();
            if line.called.load(Ordering::Relaxed) > 0 {
                return;
            }
            let Some(parker) = list.pop_front() else { return };
            line.waiting.store(list.len(), Ordering::Relaxed);
            line.called.store(1, Ordering::Relaxed);
            parker.notify();
            parker
        };
        parker.wake();
    }

    /// How many more of this level fit in, for now.
    pub(crate) fn room(&self, level: Level) -> usize {
        if let Some(free) = &self.free {
            return free.load(Ordering::SeqCst);
        }
        if level != Level::Normal {
            return self.beside().jobs.room(level.priority());
        }
        self.sender.capacity().map_or(usize::MAX, |capacity| capacity - self.sender.len().min(capacity))
    }

    fn line(&self, level: Level) -> &Line {
        if level == Level::Normal || self.free.is_some() {
            return &self.line;
        }
        match level.priority() {
            Priority::High => &self.beside().high,
            Priority::Normal => &self.beside().keyed,
            Priority::Low => &self.beside().low,
        }
    }

    /// Puts a submitter in the line of this level: at its end, or in front if it has been called before and found no
    /// room. It must look for room and at the phase before it parks.
    pub(crate) fn line_up(&self, level: Level, me: &Arc<Parker>, again: bool) {
        let line = self.line(level);
        me.notified.store(false, Ordering::Relaxed);
        {
            let mut list = line.list.lock();
            if again {
                list.push_front(Arc::clone(me));
            } else {
                list.push_back(Arc::clone(me));
            }
            line.waiting.store(list.len(), Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// Has any room called out from now on, for as long as there is a line. The caller must look for room afterwards.
    pub(crate) fn hurry(&self, level: Level) {
        let line = self.line(level);
        let list = line.list.lock();
        if !list.is_empty() {
            line.urgent.store(true, Ordering::Relaxed);
        }
        drop(list);
        fence(Ordering::SeqCst);
    }

    /// Takes a submitter out of the line, with a place or without.
    pub(crate) fn step_out(&self, level: Level, me: &Arc<Parker>) {
        let line = self.line(level);
        {
            let mut list = line.list.lock();
            let before = list.len();
            list.retain(|parker| !Arc::ptr_eq(parker, me));
            if list.len() == before {
                // It was called, or everybody was sent away.
                line.called.store(0, Ordering::Relaxed);
            }
            if list.is_empty() {
                line.urgent.store(false, Ordering::Relaxed);
            }
            line.waiting.store(list.len(), Ordering::Relaxed);
        }
        self.wake_a_submitter(level);
    }

    pub(crate) fn len(&self) -> usize {
        self.len_at(Priority::Low) + self.len_at(Priority::Normal) + self.len_at(Priority::High)
    }

    /// How many items could be taken.
    pub(crate) fn ready(&self) -> usize {
        self.receiver.len() + self.levels.get().map_or(0, |levels| levels.jobs.ready())
    }

    /// How many places jobs of this priority take.
    pub(crate) fn len_at(&self, priority: Priority) -> usize {
        let beside = self.levels.get().map_or(0, |levels| levels.jobs.len(priority));
        if priority == Priority::Normal { self.receiver.len() + beside } else { beside }
    }
}
