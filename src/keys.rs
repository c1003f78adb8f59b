//! Jobs with keys: who may start, and who waits for whom.
//!
//! 1. A key has *holders*: jobs that are ready in the queue, or run. All others with the key are *held back*, in the order
//!    of their submission; each has a reserved place in the queue. While jobs are held back, the key has no room.
//! 2. A job leaves when it is over: by whoever took it out of its cell, to run or to end it, which happens once. Then those
//!    that were held back and may start now become holders, and go to the end of the queue. A worker that finds a job in the
//!    queue that somebody else has ended has it leave as well, so that what it made room for is in the queue before the
//!    worker can find that empty; to leave twice is to leave once.
//! 3. Only jobs that have not ended enter, which is looked at under the lock that they leave under.
//! 4. Nothing is left of a key without jobs.
//!
//! The lock of the levels beside the channel is taken under this one, and this one under that of a job that is claimed; no
//! job is dropped or locked under it.

use std::collections::{BTreeMap, HashMap};

use crate::clock::Tick;
use crate::id::JobId;
use crate::panics::discard;
use crate::priority::Level;
use crate::queue::Queue;
use crate::sync::{self, Arc, Mutex, Thread};
use crate::task::Task;

#[derive(Default)]
pub(crate) struct Keys {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: HashMap<Arc<str>, Key>,
    /// Where each job is.
    seats: HashMap<JobId, Seat>,
    /// The number of the next job that is held back.
    next: u64,
    /// None of those that are held back has a deadline before this.
    no_deadline_before: Option<Tick>,
}

#[derive(Default)]
struct Key {
    /// The oldest first.
    holders: Vec<Arc<Task>>,
    held: BTreeMap<u64, HeldBack>,
    /// Threads of workers that want to know of any change.
    watchers: Vec<Thread>,
}

struct HeldBack {
    task: Arc<Task>,
    level: Level,
    limit: usize,
}

struct Seat {
    key: Arc<str>,
    /// The number among those that are held back, if it is one.
    held: Option<u64>,
}

/// What a submission does about other jobs with its key.
pub(crate) enum Share {
    /// Takes the newest for its own, if there is one: this one.
    Join(Option<Arc<Task>>),
    /// Takes the place of all, once it is in: of these.
    Replace(Vec<Arc<Task>>),
}

impl Share {
    /// This job, which is not to end for itself, is none of them.
    pub(crate) fn leave_out(&mut self, task: &Arc<Task>) {
        if let Share::Replace(older) = self {
            older.retain(|other| !Arc::ptr_eq(other, task));
        }
    }
}

/// How a worker that waits for a job gets on.
pub(crate) enum Way {
    /// By running this one, which has what it needs.
    Run(Arc<Task>),
    /// By waiting until something changes.
    Wait,
}

/// What is to be done when the lock is released.
#[derive(Default)]
struct Changes {
    may_start: Vec<Arc<Task>>,
    watchers: Vec<Thread>,
    gone: Vec<Arc<Task>>,
}

impl Changes {
    fn settle(self) {
        for task in self.may_start {
            task.unhold();
            discard("a job with a key", task);
        }
        self.watchers.into_iter().for_each(|thread| thread.unpark());
        for task in self.gone {
            discard("a job with a key", task);
        }
    }
}

impl Keys {
    /// Puts a job in the queue, or holds it back; gives it back if there is no room, or if it joins another. `force`: there
    /// is always room, but for a capacity of zero.
    pub(crate) fn enter(
        &self,
        queue: &Queue<Arc<Task>>,
        task: Arc<Task>,
        level: Level,
        share: Option<&mut Share>,
        default_limit: usize,
        force: bool,
    ) -> Result<(), Arc<Task>> {
        let Some((key, limit)) = task.key() else {
            // It was scheduled, and has ended: a worker drops what is left of it.
            return queue.push_at(level, task, force);
        };
        let limit = limit.unwrap_or(default_limit).max(1);
        let mut state = self.state.lock();
        let State { keys, seats, next, no_deadline_before } = &mut *state;
        if !task.is_waiting() {
            return queue.push_at(level, task, force);
        }
        let known = keys.get(&key);
        let replaces = match share {
            Some(Share::Join(found)) => {
                *found = known.and_then(Key::newest).cloned();
                if found.is_some() {
                    return Err(task);
                }
                None
            }
            Some(Share::Replace(older)) => Some(older),
            None => None,
        };
        // Its place will be free in a moment.
        let of_this_level = |held: &HeldBack| held.level == level && held.task.is_waiting();
        let replaces_held =
            replaces.is_some() && known.is_some_and(|known| known.held.values().any(of_this_level));
        let force = force || replaces_held;
        let mut may_start = false;
        let held = if known.is_none_or(|known| known.has_room(limit)) {
            // The lock is held until the seat is there: nobody can have it leave before.
            queue.push_at(level, Arc::clone(&task), force)?;
            may_start = true;
            None
        } else if queue.reserve(level, force) {
            *next += 1;
            Some(*next)
        } else {
            return Err(task);
        };
        if let Some(older) = replaces {
            older.extend(known.into_iter().flat_map(Key::all).cloned());
        }
        seats.insert(task.id, Seat { key: Arc::clone(&key), held });
        let own = keys.entry(key).or_default();
        match held {
            None => own.holders.push(Arc::clone(&task)),
            Some(number) => {
                let first = no_deadline_before.get_or_insert(Tick::NEVER);
                *first = task.deadline.min(*first);
                drop(own.held.insert(number, HeldBack { task: Arc::clone(&task), level, limit }));
            }
        }
        drop(state);
        if may_start {
            task.unhold();
        } else {
            // One that was scheduled may have somebody waiting for it.
            task.nudge();
        }
        discard("a job with a key", task);
        Ok(())
    }

    /// Looks what a submission with this key would find.
    pub(crate) fn look(&self, key: &str, share: &mut Share) {
        let state = self.state.lock();
        let Some(known) = state.keys.get(key) else { return };
        match share {
            Share::Join(found) => *found = known.newest().cloned(),
            Share::Replace(older) => older.extend(known.all().cloned()),
        }
    }

    /// Makes a job a holder that is not in the queue, if its key has room, or one of these jobs lends it.
    pub(crate) fn take_seat(&self, task: &Arc<Task>, default_limit: usize, inside: &[JobId]) -> bool {
        let Some((key, limit)) = task.key() else { return false };
        let limit = limit.unwrap_or(default_limit).max(1);
        let mut state = self.state.lock();
        if !state.keys.get(&key).is_none_or(|known| known.has_room(limit) || known.is_held_by(inside)) {
            return false;
        }
        state.seats.insert(task.id, Seat { key: Arc::clone(&key), held: None });
        state.keys.entry(key).or_default().holders.push(Arc::clone(task));
        true
    }

    /// A holder of the key of this job that is not with a worker yet.
    pub(crate) fn queued_holder(&self, task: &Task) -> Option<Arc<Task>> {
        let (key, _) = task.key()?;
        let state = self.state.lock();
        state.keys.get(&key)?.holders.iter().find(|holder| holder.is_queued()).cloned()
    }

    /// Whether the job is a holder.
    pub(crate) fn has_seat(&self, id: JobId) -> bool {
        self.state.lock().seats.get(&id).is_some_and(|seat| seat.held.is_none())
    }

    /// A job is over. `leftovers`: the timer ended it, so that a worker has to drop what is left.
    pub(crate) fn leave(&self, queue: &Queue<Arc<Task>>, id: JobId, leftovers: bool) {
        let mut changes = Changes::default();
        let mut state = self.state.lock();
        let State { keys, seats, .. } = &mut *state;
        let Some(seat) = seats.remove(&id) else { return };
        let Some(key) = keys.get_mut(&seat.key) else { return };
        match seat.held {
            Some(number) => {
                if let Some(HeldBack { task, level, .. }) = key.held.remove(&number) {
                    if leftovers {
                        queue.push_reserved(level, task);
                    } else {
                        queue.give_up_reserved(level);
                        changes.gone.push(task);
                    }
                }
            }
            None => {
                if let Some(place) = key.holders.iter().position(|holder| holder.id == id) {
                    changes.gone.push(key.holders.remove(place));
                }
            }
        }
        while let Some(first) = key.held.first_entry().filter(|first| key.holders.len() < first.get().limit) {
            let HeldBack { task, level, .. } = first.remove();
            if let Some(seat) = seats.get_mut(&task.id) {
                seat.held = None;
            }
            queue.push_reserved(level, Arc::clone(&task));
            key.holders.push(Arc::clone(&task));
            changes.may_start.push(task);
        }
        changes.watchers = std::mem::take(&mut key.watchers);
        if key.holders.is_empty() && key.held.is_empty() {
            keys.remove(&seat.key);
        }
        drop(state);
        changes.settle();
    }

    /// How a worker that is in these jobs, and waits for one that is held back, gets on.
    pub(crate) fn way_to(&self, queue: &Queue<Arc<Task>>, task: &Arc<Task>, inside: &[JobId]) -> Way {
        let mut state = self.state.lock();
        let State { keys, seats, .. } = &mut *state;
        let seat = seats.get_mut(&task.id);
        let Some((seat, key)) = seat.and_then(|seat| keys.get_mut(&seat.key).map(|key| (seat, key))) else {
            // Its time has just come, or it has just ended: either is told.
            return Way::Wait;
        };
        let Some(number) = seat.held else { return Way::Run(Arc::clone(task)) };
        if key.is_held_by(inside) {
            seat.held = None;
            return key.lend(queue, number).map_or(Way::Wait, Way::Run);
        }
        if let Some(holder) = key.holders.iter().find(|holder| holder.is_queued()) {
            return Way::Run(Arc::clone(holder));
        }
        key.watchers.retain(|thread| thread.id() != sync::current().id());
        key.watchers.push(sync::current());
        Way::Wait
    }

    /// A job that is held back by one of these, which wait for it.
    pub(crate) fn held_by(&self, queue: &Queue<Arc<Task>>, inside: &[JobId]) -> Option<Arc<Task>> {
        let mut state = self.state.lock();
        let State { keys, seats, .. } = &mut *state;
        for id in inside {
            let Some(key) = seats.get(id).and_then(|seat| keys.get_mut(&seat.key)) else { continue };
            let Some((&number, first)) = key.held.first_key_value() else { continue };
            if let Some(seat) = seats.get_mut(&first.task.id) {
                seat.held = None;
            }
            return key.lend(queue, number);
        }
        None
    }

    /// The job that has been held back longest, of those that take the places of this level.
    pub(crate) fn oldest_held(&self, level: Level) -> Option<Arc<Task>> {
        let state = self.state.lock();
        let held = state.keys.values().flat_map(|key| &key.held);
        let of_the_level = held.filter(|(_, held)| held.level.priority() == level.priority());
        of_the_level.min_by_key(|(number, _)| **number).map(|(_, held)| Arc::clone(&held.task))
    }

    /// Those that are held back and whose deadline has passed: nobody else may look at them for long. Costs next to nothing
    /// while there are none.
    pub(crate) fn late(&self, now: Tick) -> Vec<Arc<Task>> {
        let mut state = self.state.lock();
        if state.no_deadline_before.is_none_or(|first| now < first) {
            return Vec::new();
        }
        let held = state.keys.values().flat_map(|key| &key.held);
        let (mut late, others): (Vec<_>, Vec<_>) = held.partition(|(_, held)| held.task.deadline <= now);
        // The map of the keys has another order in every run.
        late.sort_unstable_by_key(|(number, _)| **number);
        let late = late.into_iter().map(|(_, held)| Arc::clone(&held.task)).collect();
        state.no_deadline_before = others.into_iter().map(|(_, held)| held.task.deadline).min();
        late
    }

    /// Takes out all that are held back, the oldest first.
    pub(crate) fn take_held(&self, queue: &Queue<Arc<Task>>) -> Vec<Arc<Task>> {
        let mut state = self.state.lock();
        let State { keys, seats, .. } = &mut *state;
        let mut all: Vec<_> = keys.values_mut().flat_map(|key| std::mem::take(&mut key.held)).collect();
        for (_, held) in &all {
            seats.remove(&held.task.id);
            queue.give_up_reserved(held.level);
        }
        drop(state);
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, held)| held.task).collect()
    }

    /// How many keys and how many jobs it knows.
    pub(crate) fn len(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.keys.len(), state.seats.len())
    }
}

impl Key {
    fn has_room(&self, limit: usize) -> bool {
        self.held.is_empty() && self.holders.len() < limit
    }

    fn is_held_by(&self, jobs: &[JobId]) -> bool {
        self.holders.iter().any(|holder| jobs.contains(&holder.id))
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.holders.iter().chain(self.held.values().map(|held| &held.task))
    }

    /// The job that came last, of those that have not ended.
    fn newest(&self) -> Option<&Arc<Task>> {
        let held = self.held.values().rev().map(|held| &held.task);
        held.chain(self.holders.iter().rev()).find(|task| task.is_alive())
    }

    /// Makes one that is held back a holder beyond the limit. Its place in the queue is free.
    fn lend(&mut self, queue: &Queue<Arc<Task>>, number: u64) -> Option<Arc<Task>> {
        let HeldBack { task, level, .. } = self.held.remove(&number)?;
        queue.give_up_reserved(level);
        self.holders.push(Arc::clone(&task));
        Some(task)
    }
}
