//! Serving: a delegator that does what a queue of orders asks for.
//!
//! 1. The fetcher takes only as many orders as there are free slots, and submits them as jobs.
//! 2. Who finishes a job, or drops it unstarted, leaves a verdict for the settler, and waits while too many are left.
//! 3. The settler sends verdicts on in batches, and renews the leases of what is not settled. No lock is held over a call of the
//!    queue, which is user code like an operation.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::catalog::{Catalog, CatalogOperation, job_of};
use super::memory::CANCELLED;
use super::order::{Order, millis, unix_now};
use super::queue::{Lease, LeaseToken, OrderQueue, QueueError, Renewal, Settlement, Verdict};
use crate::clock::Tick;
use crate::context::Context;
use crate::delegator::{Delegator, Shutdown, ShutdownReport, SubmitError, Submitter};
use crate::driver;
use crate::error::Error;
use crate::handle::JobHandle;
use crate::id::JobId;
use crate::panics::{contain, discard, log};
use crate::provenance::{Cancel, Origin, cause_of};
use crate::status::WorkerStatus;

/// How many verdicts go to the queue at a time, and may wait before workers wait.
const BATCH: usize = 64;

/// How long the fetcher waits for orders before it asks again.
const WAIT: Duration = Duration::from_secs(5);

/// How long it is between attempts to reach a queue that fails: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// How long a stop waits after it has cancelled what still ran at its limit.
const GRACE: Duration = Duration::from_millis(100);

const DEADLINE: &str = "deadline exceeded";

/// How a delegator serves a queue.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::Serve;
///
/// let options = Serve::options()
///     .lease(Duration::from_secs(60))
///     .backoff(Duration::from_secs(5), Duration::from_secs(600));
/// # let _ = options;
/// ```
#[derive(Debug, Clone)]
#[must_use = "options do nothing until they are given to a delegator"]
pub struct Serve {
    lease: Duration,
    prefetch: usize,
    max_deliveries: u32,
    backoff: (Duration, Duration),
}

impl Serve {
    /// The defaults: leases of 30 seconds, nothing fetched ahead, three deliveries, a backoff from one second to one hour.
    pub fn options() -> Serve {
        Serve {
            lease: Duration::from_secs(30),
            prefetch: 0,
            max_deliveries: 3,
            backoff: (Duration::from_secs(1), Duration::from_secs(60 * 60)),
        }
    }

    /// For how long orders are leased; they are renewed three times as often. So long after a process has died without a
    /// word, another takes its orders. At least 30 milliseconds.
    pub fn lease(mut self, lease: Duration) -> Serve {
        self.lease = lease.max(Duration::from_millis(30));
        self
    }

    /// How many orders are fetched beyond those that workers can start at once. More is faster for short ones; long ones wait
    /// here while other processes idle.
    pub fn prefetch(mut self, orders: usize) -> Serve {
        self.prefetch = orders;
        self
    }

    /// How often an order may be handed out without an outcome, because its process died each time, before it is taken for
    /// poison and becomes a dead letter; zero counts as one. On its last chance it runs alone in its process, so that
    /// it takes no others with it.
    pub fn max_deliveries(mut self, deliveries: u32) -> Serve {
        self.max_deliveries = deliveries.max(1);
        self
    }

    /// How long a failed order waits: this long after the first failure, twice as long after each further one, at most `max`.
    pub fn backoff(mut self, first: Duration, max: Duration) -> Serve {
        self.backoff = (first, max);
        self
    }

    fn backoff_after(&self, failures: u32) -> Duration {
        let (first, max) = self.backoff;
        first.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(max)
    }
}

impl Default for Serve {
    /// [`Serve::options`].
    fn default() -> Serve {
        Serve::options()
    }
}

/// A delegator at work for a queue; see [`Delegator::serve`]. Dropping it stops it as [`Shutdown::drain`] does.
#[must_use = "dropping it stops the serving"]
pub struct Serving {
    shared: Arc<Shared>,
    fetcher: Option<JoinHandle<()>>,
    settler: Option<JoinHandle<()>>,
}

struct Shared {
    queue: Box<dyn OrderQueue>,
    catalog: Catalog,
    options: Serve,
    submitter: Submitter,
    workers: usize,
    state: Mutex<State>,
    /// For everybody who waits for any of it to change.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Everything that is leased.
    held: HashMap<JobId, Held>,
    verdicts: VecDeque<(JobId, Verdict)>,
    /// Jobs that have been submitted and have not returned.
    busy: usize,
    /// Nothing more is fetched.
    stopping: bool,
    fetcher_ended: bool,
    /// What is not settled by now is left to lapse.
    abandoned: bool,
    settler_ended: bool,
    tally: Tally,
}

struct Held {
    ticket: Arc<Ticket>,
    token: LeaseToken,
    handle: Option<JobHandle>,
    /// The lease is void; what comes of the run is nobody's business.
    lost: bool,
    /// There is a verdict on it.
    done: bool,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    completed: usize,
    failed: usize,
    cancelled: usize,
    handed_back: usize,
}

const WAITING: u8 = 0;
const RUNNING: u8 = 1;
/// It must not start any more.
const REVOKED: u8 = 2;

/// What a job and those who watch over its lease share.
struct Ticket {
    order: Order,
    failures: u32,
    state: AtomicU8,
    /// Until when it may be started.
    lease_ends: AtomicU64,
    cancelled: AtomicBool,
}

impl Ticket {
    fn revoke(&self) -> bool {
        self.state.compare_exchange(WAITING, REVOKED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn deadline_passed(&self) -> bool {
        let deadline = self.order.deadline_millis();
        deadline != 0 && deadline <= unix_now()
    }
}

/// One run of an order, as a job holds it.
struct Attempt {
    ticket: Arc<Ticket>,
    operation: CatalogOperation,
    shared: Arc<Shared>,
}

impl Attempt {
    fn run(&self, ctx: &Context) -> Result<Vec<u8>, Error> {
        let ticket = &*self.ticket;
        if Tick::from_bits(ticket.lease_ends.load(Ordering::Acquire)) <= Tick::now() {
            if ticket.revoke() {
                self.shared.forget(ticket.order.id());
            }
        } else if ticket.state.compare_exchange(WAITING, RUNNING, Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            let returned = contain(|| (self.operation)(ctx, &ticket.order));
            self.shared.finish(ticket.order.id(), self.verdict(&returned, ctx));
            return returned.unwrap_or_else(|panic| std::panic::resume_unwind(Box::new(panic)));
        }
        Err("the lease of the order ended before it was started".into())
    }

    fn verdict(&self, returned: &Result<Result<Vec<u8>, Error>, String>, ctx: &Context) -> Verdict {
        let ticket = &*self.ticket;
        let error = match returned {
            Ok(Ok(_)) if ticket.order.result_ttl_millis() == 0 => return Verdict::Complete(Vec::new()),
            Ok(Ok(payload)) => return Verdict::Complete(payload.clone()),
            Ok(Err(error)) => error.clone(),
            Err(panic) => Error::panicked(panic.clone()),
        };
        let own = ctx.error();
        if error.is_cancelled() && own.as_ref().is_some_and(Error::is_cancelled) {
            if ticket.cancelled.load(Ordering::Acquire) {
                return Verdict::Discard(CANCELLED.to_owned());
            }
            // The delegator is shut down, and the order is to be done all the same.
            return Verdict::Release;
        }
        if error.is_timeout() && ticket.deadline_passed() {
            return Verdict::Dead(DEADLINE.to_owned());
        }
        let text =
            contain(|| error.to_string()).unwrap_or_else(|panic| format!("an error that panics: {panic}"));
        discard("the error of an order", error);
        let after = self.shared.options.backoff_after(ticket.failures);
        let due = unix_now().saturating_add(millis(after));
        let too_late = ticket.order.deadline_millis() != 0 && due >= ticket.order.deadline_millis();
        if ticket.failures.saturating_add(1) >= ticket.order.attempts() || too_late {
            Verdict::Dead(text)
        } else {
            Verdict::Retry { error: text, after }
        }
    }
}

impl Drop for Attempt {
    /// A job that ends without having been started.
    fn drop(&mut self) {
        if self.ticket.revoke() {
            let verdict = if self.ticket.cancelled.load(Ordering::Acquire) {
                Verdict::Discard(CANCELLED.to_owned())
            } else if self.ticket.deadline_passed() {
                Verdict::Dead(DEADLINE.to_owned())
            } else {
                Verdict::Release
            };
            self.shared.leave(self.ticket.order.id(), verdict);
        }
    }
}

impl Shared {
    /// Leaves a verdict on a job that has returned, and waits while the settler has enough to do.
    fn finish(&self, id: JobId, verdict: Verdict) {
        self.leave(id, verdict);
        let mut state = self.state.lock();
        while state.verdicts.len() > BATCH && !state.abandoned {
            self.changed.wait(&mut state);
        }
    }

    fn leave(&self, id: JobId, verdict: Verdict) {
        let mut state = self.state.lock();
        state.busy = state.busy.saturating_sub(1);
        if let Some(held) = state.held.get_mut(&id) {
            held.done = true;
        }
        state.verdicts.push_back((id, verdict));
        self.changed.notify_all();
    }

    /// A job that did not start, and whose lease is void.
    fn forget(&self, id: JobId) {
        let mut state = self.state.lock();
        state.busy = state.busy.saturating_sub(1);
        let held = state.held.remove(&id);
        self.changed.notify_all();
        drop(state);
        discard("a job", held);
    }

    fn fetch(self: &Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        while let Some(room) = self.wait_for_room() {
            match flat(contain(|| self.queue.lease(room, self.options.lease, WAIT))) {
                Ok(leases) => {
                    pause = FIRST_PAUSE;
                    // From before the call it would be exact; so it is early by the time that the answer took.
                    let alone: Vec<_> = leases.into_iter().filter_map(|lease| self.take(lease)).collect();
                    for attempt in alone {
                        if self.wait_until_idle() {
                            self.launch(attempt);
                            self.wait_until_idle();
                        } else {
                            // Its drop hands it back, and counts it as returned.
                            self.state.lock().busy += 1;
                            drop(attempt);
                        }
                    }
                }
                Err(error) => {
                    log(log::Level::Warn, format_args!("no orders can be fetched: {error}"));
                    let mut state = self.state.lock();
                    if !state.stopping {
                        self.changed.wait_for(&mut state, pause);
                    }
                    pause = pause.saturating_mul(2).min(LAST_PAUSE);
                }
            }
        }
        self.state.lock().fetcher_ended = true;
        self.changed.notify_all();
    }

    /// How many orders can be taken; `None` when it is time to stop.
    fn wait_for_room(&self) -> Option<usize> {
        let mut state = self.state.lock();
        loop {
            if state.stopping {
                return None;
            }
            let room = (self.workers + self.options.prefetch).saturating_sub(state.busy);
            if room > 0 {
                return Some(room);
            }
            self.changed.wait(&mut state);
        }
    }

    /// `false` when it is time to stop.
    fn wait_until_idle(&self) -> bool {
        let mut state = self.state.lock();
        while state.busy > 0 && !state.stopping {
            self.changed.wait(&mut state);
        }
        !state.stopping
    }

    /// Starts what was handed out, or settles it at once. What must run alone is given back.
    fn take(self: &Arc<Self>, lease: Lease) -> Option<Attempt> {
        let Lease { order, token, failures, deliveries, cancelled } = lease;
        let lease_ends = Tick::now().after(self.options.lease);
        {
            let mut state = self.state.lock();
            // Given back a moment ago, and handed out again: the settler is about to let go of its former lease.
            while state.held.get(&token.id).is_some_and(|held| held.done) {
                if state.abandoned {
                    return None;
                }
                self.changed.wait(&mut state);
            }
            if let Some(held) = state.held.get_mut(&token.id) {
                // Its lease had lapsed here, and nobody else was as quick.
                held.token = token;
                held.lost = false;
                held.ticket.lease_ends.store(lease_ends.bits(), Ordering::Release);
                return None;
            }
        }
        let max = self.options.max_deliveries;
        let ticket = Arc::new(Ticket {
            order,
            failures,
            state: AtomicU8::new(WAITING),
            lease_ends: AtomicU64::new(lease_ends.bits()),
            cancelled: AtomicBool::new(cancelled),
        });
        let operation = self.catalog.operation(&ticket.order);
        let verdict = match &operation {
            _ if cancelled => Some(Verdict::Discard(CANCELLED.to_owned())),
            _ if ticket.deadline_passed() => Some(Verdict::Dead(DEADLINE.to_owned())),
            _ if deliveries > max => {
                let text = format!("poison: handed out {} times without an outcome", deliveries - 1);
                Some(Verdict::Dead(text))
            }
            Err(error) => Some(Verdict::Dead(error.to_string())),
            Ok(_) => None,
        };
        let mut state = self.state.lock();
        let held =
            Held { ticket: Arc::clone(&ticket), token, handle: None, lost: false, done: verdict.is_some() };
        state.held.insert(token.id, held);
        if let Some(verdict) = verdict {
            state.verdicts.push_back((token.id, verdict));
            self.changed.notify_all();
            return None;
        }
        drop(state);
        let attempt = Attempt { ticket, operation: operation.ok()?, shared: Arc::clone(self) };
        if deliveries == max && max > 1 {
            // Until it is launched it is not counted as busy.
            return Some(attempt);
        }
        self.launch(attempt);
        None
    }

    fn launch(self: &Arc<Self>, attempt: Attempt) {
        self.state.lock().busy += 1;
        let ticket = Arc::clone(&attempt.ticket);
        let mut job = job_of(&ticket.order, move |ctx| attempt.run(ctx));
        let submitted = loop {
            match self.submitter.submit_timeout(job, FIRST_PAUSE) {
                Err(SubmitError::Timeout(back)) if !self.state.lock().stopping => job = back,
                submitted => break submitted,
            }
        };
        match submitted {
            Ok(handle) => {
                let mut state = self.state.lock();
                if let Some(held) = state.held.get_mut(&ticket.order.id()) {
                    held.handle = Some(handle);
                }
            }
            Err(error) => {
                if matches!(error, SubmitError::ShutDown(_)) {
                    self.state.lock().stopping = true;
                }
                // The drop of the attempt hands the order back.
                discard("a refused job", error);
            }
        }
    }

    fn settle(&self) {
        let third = self.options.lease / 3;
        let mut renew_at = Tick::now().after(third);
        let mut batch: Vec<(JobId, Verdict)> = Vec::new();
        let mut pause = FIRST_PAUSE;
        let mut retry_at = None;
        loop {
            {
                let mut state = self.state.lock();
                loop {
                    if state.abandoned || (state.fetcher_ended && state.held.is_empty()) {
                        state.settler_ended = true;
                        self.changed.notify_all();
                        return;
                    }
                    let now = Tick::now();
                    if batch.is_empty() && !state.verdicts.is_empty() {
                        let count = state.verdicts.len().min(BATCH);
                        batch.extend(state.verdicts.drain(..count));
                        self.changed.notify_all();
                    }
                    let can_settle = !batch.is_empty() && retry_at.is_none_or(|at| at <= now);
                    if can_settle || renew_at <= now {
                        break;
                    }
                    let until =
                        retry_at.filter(|_| !batch.is_empty()).map_or(renew_at, |at| renew_at.min(at));
                    self.changed.wait_for(&mut state, until.since(now).unwrap_or_default());
                }
            }
            if renew_at <= Tick::now() {
                self.renew();
                renew_at = Tick::now().after(third);
            }
            if batch.is_empty() || retry_at.is_some_and(|at| Tick::now() < at) {
                continue;
            }
            match self.send(&batch) {
                Ok(()) => {
                    batch.clear();
                    (retry_at, pause) = (None, FIRST_PAUSE);
                }
                Err(error) => {
                    log(log::Level::Warn, format_args!("{} orders cannot be settled: {error}", batch.len()));
                    retry_at = Some(Tick::now().after(pause));
                    pause = pause.saturating_mul(2).min(LAST_PAUSE);
                }
            }
        }
    }

    /// Settles these, and lets go of them.
    fn send(&self, batch: &[(JobId, Verdict)]) -> Result<(), QueueError> {
        let settlements: Vec<Settlement> = {
            let state = self.state.lock();
            let settlement = |(id, verdict): &(JobId, Verdict)| {
                let held = state.held.get(id).filter(|held| !held.lost)?;
                Some(Settlement { token: held.token, verdict: verdict.clone() })
            };
            batch.iter().filter_map(settlement).collect()
        };
        let answers = flat(contain(|| self.queue.settle(settlements.clone())))?;
        let settled: HashMap<JobId, bool> =
            settlements.iter().map(|settlement| settlement.token.id).zip(answers).collect();
        let mut gone = Vec::with_capacity(batch.len());
        let mut state = self.state.lock();
        for (id, verdict) in batch {
            gone.extend(state.held.remove(id));
            if !settled.get(id).copied().unwrap_or(false) {
                log(
                    log::Level::Warn,
                    format_args!("the lease of order {id} was lost; what came of it does not count"),
                );
                continue;
            }
            let tally = &mut state.tally;
            match verdict {
                Verdict::Complete(_) => tally.completed += 1,
                Verdict::Retry { .. } | Verdict::Dead(_) => tally.failed += 1,
                Verdict::Discard(_) => tally.cancelled += 1,
                Verdict::Release => tally.handed_back += 1,
            }
        }
        self.changed.notify_all();
        drop(state);
        discard("a job", gone);
        Ok(())
    }

    fn renew(&self) {
        let now = Tick::now();
        let tokens: Vec<LeaseToken> = {
            let state = self.state.lock();
            // One that hangs past its deadline is not kept alive for ever.
            let in_time = |held: &&Held| held.handle.as_ref().is_none_or(|handle| now < handle.task.deadline);
            state.held.values().filter(|held| !held.lost).filter(in_time).map(|held| held.token).collect()
        };
        if tokens.is_empty() {
            return;
        }
        let renewals = match flat(contain(|| self.queue.renew(&tokens, self.options.lease))) {
            Ok(renewals) => renewals,
            Err(error) => {
                log(log::Level::Warn, format_args!("{} leases cannot be renewed: {error}", tokens.len()));
                return;
            }
        };
        let mut to_cancel = Vec::new();
        let mut state = self.state.lock();
        for (token, renewal) in tokens.iter().zip(renewals) {
            let Some(held) = state.held.get_mut(&token.id).filter(|held| held.token == *token) else {
                continue;
            };
            let why = match renewal {
                Renewal::Lost => {
                    held.lost = true;
                    "the lease of the order was lost"
                }
                Renewal::Held | Renewal::Cancelled => {
                    held.ticket.lease_ends.store(now.after(self.options.lease).bits(), Ordering::Release);
                    if renewal == Renewal::Held || held.ticket.cancelled.swap(true, Ordering::AcqRel) {
                        continue;
                    }
                    "the order was cancelled"
                }
            };
            to_cancel.extend(held.handle.clone().map(|handle| (handle, why)));
        }
        drop(state);
        if !to_cancel.is_empty() {
            // Cancelling calls functions of the user's, and leases are to be renewed meanwhile.
            let cancel = move || {
                to_cancel.into_iter().for_each(|(handle, why)| {
                    handle.cancel_for(Cancel::at(Origin::OrderQueue, Some(cause_of(why)), None));
                })
            };
            let _ = std::thread::Builder::new().name("workpath-cancel".into()).spawn(cancel);
        }
    }

    /// Waits until `holds`, or this tick, and says which.
    fn wait_until(&self, until: Tick, mut holds: impl FnMut(&mut State) -> bool) -> bool {
        let mut state = self.state.lock();
        loop {
            if holds(&mut state) {
                return true;
            }
            if until == Tick::NEVER {
                self.changed.wait(&mut state);
                continue;
            }
            let Some(left) = until.since(Tick::now()) else { return false };
            self.changed.wait_for(&mut state, left);
        }
    }
}

fn flat<T>(answer: Result<Result<T, QueueError>, String>) -> Result<T, QueueError> {
    answer.unwrap_or_else(|panic| {
        Err(QueueError::new(
            super::queue::QueueErrorKind::Unavailable,
            format!("the queue panicked: {panic}"),
        ))
    })
}

impl Serving {
    /// Stops serving, and gives an account of the orders that were in hand when this began. The delegator goes on.
    ///
    /// Nothing more is fetched, and what has not started goes back to the queue. What runs is waited for, or cancelled, as `how`
    /// says; a cancelled order goes back to the queue as well. What does not return in time is reported as stuck: its lease lapses,
    /// and another process takes the order. The queue gets what is finished before this returns, unless it does not answer in
    /// time. Must not be called from inside an order that it serves: it would wait for itself.
    #[track_caller]
    pub fn stop(mut self, how: Shutdown) -> ShutdownReport {
        self.end(how, Some(Location::caller()))
    }

    fn end(&mut self, how: Shutdown, caller: Option<&'static Location<'static>>) -> ShutdownReport {
        let Some(fetcher) = self.fetcher.take() else { return ShutdownReport::default() };
        let shared = Arc::clone(&self.shared);
        let limit = Tick::now().after(how.limit());
        let before = {
            let mut state = shared.state.lock();
            state.stopping = true;
            shared.changed.notify_all();
            state.tally
        };
        // It may be about to wait for orders: it is woken until it has seen the stop.
        let ended = loop {
            let _ = contain(|| shared.queue.wake());
            let soon = Tick::now().after(Duration::from_millis(20));
            if shared.wait_until(soon.min(limit.after(GRACE)), |state| state.fetcher_ended) {
                break true;
            }
            if limit.after(GRACE) <= Tick::now() {
                break false;
            }
        };
        if ended {
            let _ = fetcher.join();
        }
        // What waits is taken back here: its job may be in somebody's hands, and cancelling it would not drop it.
        let cancel = |unstarted_only: bool| {
            let held: Vec<(Arc<Ticket>, Option<JobHandle>)> = {
                let state = shared.state.lock();
                state.held.values().map(|held| (Arc::clone(&held.ticket), held.handle.clone())).collect()
            };
            for (ticket, handle) in held {
                let revoked = handle.is_some() && ticket.revoke();
                if revoked {
                    shared.leave(ticket.order.id(), Verdict::Release);
                }
                if let Some(handle) = handle.filter(|_| revoked || !unstarted_only) {
                    let cause = cause_of("the serving is stopped");
                    handle.cancel_for(Cancel::at(Origin::Shutdown, Some(cause), caller));
                }
            }
        };
        cancel(!how.cancels());
        if !shared.wait_until(limit, |state| state.busy == 0) {
            cancel(false);
            shared.wait_until(Tick::now().after(GRACE), |state| state.busy == 0);
        }
        let running: Vec<JobId> = {
            let state = shared.state.lock();
            let finished = |id: &JobId| state.verdicts.iter().any(|(done, _)| done == id);
            let held = state.held.iter().filter(|(id, held)| held.handle.is_some() && !finished(id));
            held.filter(|(_, held)| held.handle.as_ref().is_some_and(|handle| !handle.is_finished()))
                .map(|(id, _)| *id)
                .collect()
        };
        let is_busy = shared.state.lock().busy > 0;
        let stuck = if is_busy { self.workers_in(&running) } else { Vec::new() };
        let by = if is_busy { Tick::now().after(GRACE) } else { limit.max(Tick::now().after(GRACE)) };
        shared.wait_until(by, |state| state.settler_ended || (is_busy && state.verdicts.is_empty()));
        shared.state.lock().abandoned = true;
        shared.changed.notify_all();
        let settled = shared.wait_until(Tick::now().after(GRACE), |state| state.settler_ended);
        let tally = shared.state.lock().tally;
        if let Some(settler) = self.settler.take().filter(|_| settled) {
            let _ = settler.join();
        }
        ShutdownReport {
            completed: tally.completed - before.completed,
            failed: tally.failed - before.failed,
            cancelled: tally.cancelled - before.cancelled,
            handed_back: tally.handed_back - before.handed_back,
            stuck,
            ..ShutdownReport::default()
        }
    }

    fn workers_in(&self, jobs: &[JobId]) -> Vec<WorkerStatus> {
        let workers = self.shared.submitter.workers().into_iter();
        workers.filter(|worker| worker.running.is_some_and(|id| jobs.contains(&id))).collect()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.end(Shutdown::drain(), None);
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let busy = self.shared.state.try_lock().map(|state| state.busy);
        f.debug_struct("Serving").field("busy", &busy).finish_non_exhaustive()
    }
}

impl Delegator {
    /// Does what the queue asks for, with the operations of the catalog, until the [`Serving`] is stopped or dropped, or the
    /// delegator is shut down.
    ///
    /// Two threads are started: one fetches orders, only as many as there are free workers, and one settles them and renews their
    /// leases. The orders run as jobs of this delegator, beside others that are submitted, with the same records, deadlines and
    /// log lines. One that fails is tried again after a backoff; one that has used up its attempts, whose operation is not
    /// in the catalog, or whose deadline has passed, becomes a dead letter.
    ///
    /// An order may run more than once; see [`OrderQueue`]. Stop the serving before the delegator.
    ///
    /// # Errors
    ///
    /// What keeps the threads from being started; [`Unsupported`](io::ErrorKind::Unsupported) for a
    /// [`Manual`](crate::Manual) delegator, which runs nothing by itself.
    ///
    /// # Examples
    ///
    /// See [`MemoryQueue`](crate::MemoryQueue).
    pub fn serve<Q: OrderQueue + Clone + 'static>(
        &self,
        queue: &Q,
        catalog: &Catalog,
        options: Serve,
    ) -> io::Result<Serving> {
        if driver::drives(std::ptr::from_ref(&*self.submitter().engine).cast()) {
            let text = "a manual delegator runs nothing by itself, and cannot serve: use Catalog::job";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let workers = self.workers();
        let name =
            workers.first().and_then(|worker| worker.thread_name.strip_suffix("-0")).unwrap_or("workpath");
        let shared = Arc::new(Shared {
            queue: Box::new(queue.clone()),
            catalog: catalog.clone(),
            options,
            submitter: self.submitter(),
            workers: workers.len(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut serving = Serving { shared, fetcher: None, settler: None };
        let shared = Arc::clone(&serving.shared);
        let builder = std::thread::Builder::new().name(format!("{name}-settle"));
        serving.settler = Some(builder.spawn(move || shared.settle())?);
        let shared = Arc::clone(&serving.shared);
        let builder = std::thread::Builder::new().name(format!("{name}-fetch"));
        match builder.spawn(move || shared.fetch()) {
            Ok(fetcher) => serving.fetcher = Some(fetcher),
            Err(error) => {
                serving.shared.state.lock().abandoned = true;
                serving.shared.changed.notify_all();
                return Err(error);
            }
        }
        Ok(serving)
    }
}
