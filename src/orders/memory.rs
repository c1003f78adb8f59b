//! A queue in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::order::{Order, millis, rank, time, unix_now};
use super::queue::{
    CANCELLED, DEFAULT_MAX_BYTES, DeadLetter, Lease, LeaseToken, OrderQueue, OrderResult, QueueCounts,
    QueueError, QueueErrorKind, Renewal, Settlement, Verdict, check,
};
use crate::clock::Tick;
use crate::id::JobId;

/// How many dead letters a queue keeps.
pub(crate) const MAX_DEAD: usize = 10_000;

/// A queue of orders in this process's memory: for tests, and for programs that do not need their orders to outlive
/// them. It does what the other queues do, leases and dead letters included. A clone is the same queue.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{Catalog, Delegator, MemoryQueue, Order, OrderQueue, Serve, Shutdown};
///
/// let catalog = Catalog::new().with("double", |_, order| Ok(vec![order.payload()[0] * 2]));
/// let queue = MemoryQueue::new();
/// let delegator = Delegator::builder().workers(2).build()?;
/// let serving = delegator.serve(&queue, &catalog, Serve::options())?;
///
/// let id = queue.enqueue(Order::new("double").with_payload([21]))?;
/// assert_eq!(queue.result(id, Duration::from_secs(60))?, Some(Ok(vec![42])));
/// serving.stop(Shutdown::drain());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct MemoryQueue {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// An order is due, or somebody called `wake`.
    due: Condvar,
    /// A result is there.
    settled: Condvar,
    capacity: usize,
    max_bytes: usize,
}

#[derive(Default)]
struct State {
    /// The orders, and the slots that are free.
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    /// Where they are. Ids grow, and go about as they came, so that a tree has near what was just there; a hash table
    /// has not.
    slots: BTreeMap<JobId, usize>,
    /// Those that are due, by the sequence in which they are handed out.
    waiting: BTreeMap<(u8, u64), usize>,
    /// Those that are not, by the time at which they are.
    delayed: BTreeMap<(u64, u64), usize>,
    /// Those that are handed out, by the end of their lease.
    leased: BTreeMap<(Tick, u64), usize>,
    keys: HashMap<String, JobId>,
    /// With the time at which each is forgotten.
    results: BTreeMap<JobId, (u64, OrderResult)>,
    /// By that time. There may be older ones of orders that were done again.
    expiry: BTreeSet<(u64, JobId)>,
    dead: VecDeque<DeadLetter>,
    dead_ids: HashSet<JobId>,
    /// Numbers for orders and leases.
    next: u64,
    /// How many threads wait for an order, and for a result.
    takers: usize,
    readers: usize,
    /// How often `wake` was called.
    woken: u64,
}

struct Entry {
    order: Order,
    seq: u64,
    failures: u32,
    deliveries: u32,
    cancelled: bool,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Waiting,
    Delayed(u64),
    Leased { until: Tick, fence: u64 },
}

impl MemoryQueue {
    /// How many orders a queue takes unless it is told otherwise.
    pub const DEFAULT_CAPACITY: usize = 100_000;

    /// A queue that takes 100,000 orders of up to 1 MiB.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{MemoryQueue, OrderQueue};
    ///
    /// assert_eq!(MemoryQueue::new().counts()?.waiting, 0);
    /// # Ok::<(), workpath::QueueError>(())
    /// ```
    pub fn new() -> MemoryQueue {
        MemoryQueue::with_limits(MemoryQueue::DEFAULT_CAPACITY, DEFAULT_MAX_BYTES)
    }

    /// A queue that takes so many orders, waiting, delayed and handed out together, each with so many bytes of payload and
    /// values.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{MemoryQueue, Order, OrderQueue, QueueErrorKind};
    ///
    /// let queue = MemoryQueue::with_limits(1, 1024);
    /// queue.enqueue(Order::new("first"))?;
    /// assert_eq!(queue.enqueue(Order::new("second")).unwrap_err().kind(), QueueErrorKind::Full);
    /// # Ok::<(), workpath::QueueError>(())
    /// ```
    pub fn with_limits(capacity: usize, max_bytes: usize) -> MemoryQueue {
        let shared = Shared {
            state: Mutex::default(),
            due: Condvar::new(),
            settled: Condvar::new(),
            capacity,
            max_bytes,
        };
        MemoryQueue { shared: Arc::new(shared) }
    }

    /// Wakes as many takers as there may be orders for.
    fn announce(&self, state: &State, orders: usize) {
        if state.takers > 0 {
            match orders {
                0 => {}
                1 => drop(self.shared.due.notify_one()),
                _ => drop(self.shared.due.notify_all()),
            }
        }
    }
}

impl Default for MemoryQueue {
    /// [`MemoryQueue::new`].
    fn default() -> MemoryQueue {
        MemoryQueue::new()
    }
}

impl State {
    fn insert(&mut self, order: Order, failures: u32, now: u64) {
        let seq = self.next;
        self.next += 1;
        let id = order.id();
        if let Some(key) = order.unique_key() {
            self.keys.insert(key.to_owned(), id);
        }
        let due = order.not_before_millis();
        let place = if due > now { Place::Delayed(due) } else { Place::Waiting };
        let entry = Entry { order, seq, failures, deliveries: 0, cancelled: false, place };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.slots.insert(id, slot);
        self.place(slot, entry);
    }

    /// Puts an entry into its slot, and into the index of its place.
    fn place(&mut self, slot: usize, entry: Entry) {
        match entry.place {
            Place::Waiting => drop(self.waiting.insert((rank(entry.order.priority()), entry.seq), slot)),
            Place::Delayed(due) => drop(self.delayed.insert((due, entry.seq), slot)),
            Place::Leased { until, .. } => drop(self.leased.insert((until, entry.seq), slot)),
        }
        self.entries[slot] = Some(entry);
    }

    /// Takes an entry out of its slot, and out of the index of its place.
    fn displace(&mut self, slot: usize) -> Option<Entry> {
        let entry = self.entries.get_mut(slot)?.take()?;
        match entry.place {
            Place::Waiting => drop(self.waiting.remove(&(rank(entry.order.priority()), entry.seq))),
            Place::Delayed(due) => drop(self.delayed.remove(&(due, entry.seq))),
            Place::Leased { until, .. } => drop(self.leased.remove(&(until, entry.seq))),
        }
        Some(entry)
    }

    /// What has left the queue, but for its key.
    fn vacate(&mut self, slot: usize, id: JobId) {
        self.slots.remove(&id);
        self.free.push(slot);
    }

    /// The slot of what is leased by this token.
    fn held(&self, token: LeaseToken) -> Option<usize> {
        let slot = usize::try_from(token.place.1).ok()?;
        let entry = self.entries.get(slot)?.as_ref()?;
        matches!(entry.place, Place::Leased { fence, .. } if fence == token.fence).then_some(slot)
    }

    /// Moves what has become due, and what was lost, to what waits.
    fn look(&mut self, now: u64, tick: Tick) {
        while let Some((&(due, _), &slot)) = self.delayed.first_key_value() {
            if due > now {
                break;
            }
            self.make_wait(slot);
        }
        while let Some((&(until, _), &slot)) = self.leased.first_key_value() {
            if until > tick {
                break;
            }
            self.make_wait(slot);
        }
        while let Some(&(expires, id)) = self.expiry.first() {
            if expires > now {
                break;
            }
            self.expiry.pop_first();
            if self.results.get(&id).is_some_and(|(until, _)| *until == expires) {
                self.results.remove(&id);
            }
        }
    }

    fn make_wait(&mut self, slot: usize) {
        if let Some(mut entry) = self.displace(slot) {
            entry.place = Place::Waiting;
            self.place(slot, entry);
        }
    }

    /// How long until something becomes due by itself.
    fn next_due(&self, now: u64, tick: Tick) -> Option<Duration> {
        let delayed = self.delayed.first_key_value();
        let delayed = delayed.map(|(&(due, _), _)| Duration::from_millis(due.saturating_sub(now)));
        let leased = self.leased.first_key_value();
        let leased = leased.map(|(&(until, _), _)| until.since(tick).unwrap_or_default());
        delayed.into_iter().chain(leased).min()
    }

    fn hand_out(&mut self, max: usize, until: Tick) -> Vec<Lease> {
        let mut leases = Vec::with_capacity(max.min(self.waiting.len()));
        while leases.len() < max {
            let Some((&place, &slot)) = self.waiting.first_key_value() else { break };
            let Some(entry) = self.entries[slot].as_mut() else { break };
            let was_lost = entry.deliveries > 0;
            if was_lost && !leases.is_empty() {
                break;
            }
            self.waiting.remove(&place);
            let fence = self.next;
            self.next += 1;
            entry.deliveries = entry.deliveries.saturating_add(1);
            entry.place = Place::Leased { until, fence };
            let token = LeaseToken { id: entry.order.id(), place: (entry.seq, slot as u64), fence };
            leases.push(Lease {
                order: entry.order.clone(),
                token,
                failures: entry.failures,
                deliveries: entry.deliveries,
                cancelled: entry.cancelled,
            });
            self.leased.insert((until, entry.seq), slot);
            if was_lost {
                break;
            }
        }
        leases
    }

    fn finish(&mut self, order: &Order, result: OrderResult, now: u64) {
        if let Some(key) = order.unique_key() {
            self.keys.remove(key);
        }
        let ttl = order.result_ttl_millis();
        if ttl > 0 {
            let expires = now.saturating_add(ttl);
            self.expiry.insert((expires, order.id()));
            self.results.insert(order.id(), (expires, result));
        }
    }

    fn settle(&mut self, settlement: Settlement, now: u64) -> bool {
        let Settlement { token, verdict } = settlement;
        let Some(slot) = self.held(token) else { return false };
        let Some(mut entry) = self.displace(slot) else { return false };
        let verdict = if entry.cancelled { verdict.of_cancelled() } else { verdict };
        if !matches!(verdict, Verdict::Retry { .. } | Verdict::Release) {
            self.vacate(slot, token.id);
        }
        match verdict {
            Verdict::Complete(payload) => self.finish(&entry.order, Ok(payload), now),
            Verdict::Discard(error) => self.finish(&entry.order, Err(error), now),
            Verdict::Dead(reason) => {
                self.finish(&entry.order, Err(reason.clone()), now);
                if self.dead.len() == MAX_DEAD {
                    if let Some(oldest) = self.dead.pop_front() {
                        self.dead_ids.remove(&oldest.id);
                    }
                }
                self.dead_ids.insert(token.id);
                self.dead.push_back(DeadLetter {
                    id: token.id,
                    operation: entry.order.operation().to_owned(),
                    reason,
                    died_at: time(now),
                    failures: entry.failures.saturating_add(1),
                    order: Some(entry.order),
                });
            }
            Verdict::Retry { error: _, after } => {
                entry.failures = entry.failures.saturating_add(1);
                entry.deliveries = 0;
                entry.place = Place::Delayed(now.saturating_add(millis(after)));
                self.place(slot, entry);
            }
            Verdict::Release => {
                entry.deliveries = entry.deliveries.saturating_sub(1);
                entry.place = Place::Waiting;
                self.place(slot, entry);
            }
        }
        true
    }
}

impl OrderQueue for MemoryQueue {
    fn enqueue_all(&self, orders: Vec<Order>) -> Vec<Result<JobId, QueueError>> {
        let now = unix_now();
        let state = &mut *self.shared.state.lock();
        let mut accepted = 0;
        let accept = |order: Order| {
            check(&order, self.shared.max_bytes)?;
            let id = order.id();
            if state.slots.contains_key(&id) || state.dead_ids.contains(&id) {
                return Err(QueueError::duplicate(id, "id"));
            }
            let key = order.unique_key();
            if let Some((there, key)) = key.and_then(|key| Some((*state.keys.get(key)?, key))) {
                return Err(QueueError::duplicate(there, format_args!("key {key:?}")));
            }
            if state.slots.len() >= self.shared.capacity {
                let text = format!("the queue in memory is full: it has {} orders", state.slots.len());
                return Err(QueueError::new(QueueErrorKind::Full, text));
            }
            state.insert(order, 0, now);
            accepted += 1;
            Ok(id)
        };
        let answers = orders.into_iter().map(accept).collect();
        self.announce(state, accepted);
        answers
    }

    fn lease(&self, max: usize, lease: Duration, wait: Duration) -> Result<Vec<Lease>, QueueError> {
        let mut state = self.shared.state.lock();
        let woken = state.woken;
        let give_up = Tick::now().after(wait);
        loop {
            let (now, tick) = (unix_now(), Tick::now());
            state.look(now, tick);
            let leases = state.hand_out(max, tick.after(lease));
            if !leases.is_empty() || max == 0 || give_up <= tick || state.woken != woken {
                return Ok(leases);
            }
            // The first of: the caller's patience, the next order to become due.
            let patience = give_up.since(tick).unwrap_or_default();
            let nap = state.next_due(now, tick).map_or(patience, |due| due.min(patience));
            state.takers += 1;
            self.shared.due.wait_for(&mut state, nap.max(Duration::from_millis(1)));
            state.takers -= 1;
        }
    }

    fn renew(&self, leases: &[LeaseToken], lease: Duration) -> Result<Vec<Renewal>, QueueError> {
        let state = &mut *self.shared.state.lock();
        let until = Tick::now().after(lease);
        let renew = |token: &LeaseToken| {
            let Some(slot) = state.held(*token) else { return Renewal::Lost };
            let Some(mut entry) = state.displace(slot) else { return Renewal::Lost };
            entry.place = Place::Leased { until, fence: token.fence };
            let cancelled = entry.cancelled;
            state.place(slot, entry);
            if cancelled { Renewal::Cancelled } else { Renewal::Held }
        };
        Ok(leases.iter().map(renew).collect())
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>, QueueError> {
        let now = unix_now();
        let state = &mut *self.shared.state.lock();
        let answers = settlements.into_iter().map(|settlement| state.settle(settlement, now)).collect();
        if state.readers > 0 {
            self.shared.settled.notify_all();
        }
        // What was released is due, and what is retried may be.
        self.announce(state, 2);
        Ok(answers)
    }

    fn result(&self, id: JobId, wait: Duration) -> Result<Option<OrderResult>, QueueError> {
        let mut state = self.shared.state.lock();
        let give_up = Tick::now().after(wait);
        loop {
            let tick = Tick::now();
            state.look(unix_now(), tick);
            if let Some((_, result)) = state.results.get(&id) {
                return Ok(Some(result.clone()));
            }
            let Some(left) = give_up.since(tick) else { return Ok(None) };
            state.readers += 1;
            self.shared.settled.wait_for(&mut state, left);
            state.readers -= 1;
        }
    }

    fn cancel(&self, id: JobId) -> Result<bool, QueueError> {
        let state = &mut *self.shared.state.lock();
        let Some(&slot) = state.slots.get(&id) else { return Ok(false) };
        let Some(entry) = state.entries[slot].as_mut() else { return Ok(false) };
        if matches!(entry.place, Place::Leased { .. }) {
            entry.cancelled = true;
        } else if let Some(entry) = state.displace(slot) {
            state.vacate(slot, id);
            state.finish(&entry.order, Err(CANCELLED.to_owned()), unix_now());
            if state.readers > 0 {
                self.shared.settled.notify_all();
            }
        }
        Ok(true)
    }

    fn counts(&self) -> Result<QueueCounts, QueueError> {
        let state = &mut *self.shared.state.lock();
        let now = unix_now();
        let delayed = state.delayed.range((now.saturating_add(1), 0)..).count();
        Ok(QueueCounts {
            waiting: (state.waiting.len() + state.delayed.len() - delayed) as u64,
            delayed: delayed as u64,
            leased: state.leased.len() as u64,
            dead: state.dead.len() as u64,
        })
    }

    fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        Ok(self.shared.state.lock().dead.iter().rev().take(max).cloned().collect())
    }

    fn requeue(&self, id: JobId) -> Result<bool, QueueError> {
        let state = &mut *self.shared.state.lock();
        let Some(index) = state.dead.iter().position(|letter| letter.id == id) else { return Ok(false) };
        let Some(order) = state.dead[index].order.clone() else { return Ok(false) };
        if let Some((there, key)) = order.unique_key().and_then(|key| Some((*state.keys.get(key)?, key))) {
            return Err(QueueError::duplicate(there, format_args!("key {key:?}")));
        }
        let now = unix_now();
        state.dead.remove(index);
        state.dead_ids.remove(&id);
        state.results.remove(&id);
        state.insert(order.revived(now), 0, now);
        self.announce(state, 1);
        Ok(true)
    }

    fn wake(&self) {
        let mut state = self.shared.state.lock();
        state.woken = state.woken.wrapping_add(1);
        self.shared.due.notify_all();
    }
}

impl fmt::Debug for MemoryQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let orders = self.shared.state.try_lock().map(|state| state.slots.len());
        f.debug_struct("MemoryQueue").field("orders", &orders).finish_non_exhaustive()
    }
}
