//! Serving: a delegator that does what a queue of orders asks for.
//!
//! 1. The fetcher takes only as many orders as there are free slots, and submits them as jobs. It waits until half of
//!    what may be fetched ahead is used up, so that it is not woken for every order.
//! 2. Who finishes a job, or drops it unstarted, leaves a verdict for the settler, and waits while too many are left.
//! 3. The settler sends verdicts on in batches: when there are enough, when nothing runs that could leave one more, or
//!    a moment after the first. It renews the leases of what is not settled. No lock is held over a call of the queue,
//!    which is user code like an operation.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::catalog::{Catalog, job_of};
use super::order::{Order, millis, unix_now};
use super::queue::{CANCELLED, Lease, LeaseToken, OrderQueue, QueueError, Renewal, Settlement, Verdict};
use crate::clock::Tick;
use crate::context::Context;
use crate::delegator::{Delegator, Shutdown, ShutdownReport, SubmitError, Submitter};
use crate::driver;
use crate::engine::Caller;
use crate::error::Error;
use crate::handle::JobHandle;
use crate::id::JobId;
use crate::job::Job;
use crate::panics::{contain, discard, log};
use crate::provenance::{Cancel, Origin, cause_of};
use crate::status::WorkerStatus;

/// How many verdicts go to the queue at a time; workers wait while so many more are left.
const BATCH: usize = 64;

/// How long a verdict waits for others to go along with.
const LINGER: Duration = Duration::from_micros(500);

/// How long the fetcher waits for orders before it asks again.
const WAIT: Duration = Duration::from_secs(5);

/// How long it is between attempts to reach a queue that fails: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// How long a stop waits after it has cancelled what still ran at its limit.
const GRACE: Duration = Duration::from_millis(100);

const DEADLINE: &str = "deadline exceeded";

/// Why jobs are cancelled.
const LEASE_LOST: &str = "the lease of the order was lost";
const ORDER_CANCELLED: &str = "the order was cancelled";

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
    timeout: Duration,
}

impl Serve {
    /// The defaults: leases of 30 seconds, nothing fetched ahead, three deliveries, a backoff from one second to one
    /// hour, and no limit to the time of an attempt.
    pub fn options() -> Serve {
        Serve {
            lease: Duration::from_secs(30),
            prefetch: 0,
            max_deliveries: 3,
            backoff: (Duration::from_secs(1), Duration::from_secs(60 * 60)),
            timeout: Duration::MAX,
        }
    }

    /// For how long orders are leased; they are renewed three times as often. So long after a process has died without a
    /// word, another takes its orders. At least 30 milliseconds.
    pub fn lease(mut self, lease: Duration) -> Serve {
        self.lease = lease.max(Duration::from_millis(30));
        self
    }

    /// How many orders are fetched beyond those that workers can start at once. More is faster for short ones; long
    /// ones wait here while other processes idle.
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

    /// How long a failed order waits: this long after the first failure, twice as long after each further one, at most
    /// `max`.
    pub fn backoff(mut self, first: Duration, max: Duration) -> Serve {
        self.backoff = (first, max);
        self
    }

    /// How much time an attempt has, from when its order is fetched; [`Duration::MAX`] is no limit. Its operation is
    /// told through its context, and an attempt that ends so has failed, as any other. The lease of one that does not
    /// return is not renewed any more: when it lapses, the order is handed out again, though the operation may still
    /// run. Without a limit, an operation that hangs keeps its order for ever, unless the order has a deadline.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::Serve;
    ///
    /// let options = Serve::options().timeout(Duration::from_secs(600));
    /// # let _ = options;
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Serve {
        self.timeout = timeout;
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
    /// For the fetcher: there is room, nothing is busy, or it is time to stop.
    room: Condvar,
    /// For the settler: there are verdicts, or it is time to stop.
    verdicts: Condvar,
    /// For workers: the settler has taken verdicts.
    taken: Condvar,
    /// For who stops the serving: something has come to an end.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// Everything that is leased, and the slots that are free.
    held: Vec<Option<Held>>,
    free: Vec<usize>,
    verdicts: Vec<(usize, Verdict)>,
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

impl Held {
    /// It hangs past its deadline, and is not kept alive for ever.
    fn is_late(&self, now: Tick) -> bool {
        self.handle.as_ref().is_some_and(|handle| handle.task.deadline <= now)
    }
}

impl State {
    fn hold(&mut self, held: Held) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.held.push(None);
            self.held.len() - 1
        });
        self.held[slot] = Some(held);
        slot
    }

    fn let_go(&mut self, slot: usize) -> Option<Held> {
        let held = self.held.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(held)
    }

    fn holds_nothing(&self) -> bool {
        self.free.len() == self.held.len()
    }

    fn all_held(&self) -> impl Iterator<Item = &Held> {
        self.held.iter().flatten()
    }
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
    /// Set before anybody else sees it.
    slot: AtomicUsize,
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
    shared: Arc<Shared>,
}

thread_local! {
    /// The servings whose orders this thread runs, each inside the one before it, by their addresses.
    static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

impl Attempt {
    fn run(&self, ctx: &Context) -> Result<Vec<u8>, Error> {
        let ticket = &*self.ticket;
        if Tick::from_bits(ticket.lease_ends.load(Ordering::Acquire)) <= Tick::now() {
            if ticket.revoke() {
                self.shared.forget(ticket);
            }
        } else if ticket.state.compare_exchange(WAITING, RUNNING, Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            INSIDE.with_borrow_mut(|inside| inside.push(self.shared.address()));
            let returned = contain(|| match self.shared.catalog.get(ticket.order.operation()) {
                Some(operation) => operation(ctx, &ticket.order),
                None => Err(QueueError::unknown_operation(ticket.order.operation()).into()),
            });
            let _ = INSIDE.with_borrow_mut(Vec::pop);
            self.shared.finish(ticket, self.verdict(&returned, ctx));
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
        let (permanent, wanted) = (error.is_permanent(), error.retry_delay());
        discard("the error of an order", error);
        let after = wanted.unwrap_or_else(|| self.shared.options.backoff_after(ticket.failures));
        let due = unix_now().saturating_add(millis(after));
        let too_late = ticket.order.deadline_millis() != 0 && due >= ticket.order.deadline_millis();
        if permanent || ticket.failures.saturating_add(1) >= ticket.order.attempts() || too_late {
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
            self.shared.leave(&self.ticket, verdict);
        }
    }
}

impl Shared {
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Leaves a verdict on a job that has returned, and waits while the settler has enough to do.
    fn finish(&self, ticket: &Ticket, verdict: Verdict) {
        if self.leave(ticket, verdict) <= 2 * BATCH {
            return;
        }
        let mut state = self.state.lock();
        while state.verdicts.len() > 2 * BATCH && !state.abandoned {
            self.taken.wait(&mut state);
        }
    }

    /// How many verdicts are left.
    fn leave(&self, ticket: &Ticket, verdict: Verdict) -> usize {
        let mut state = self.state.lock();
        let slot = ticket.slot.load(Ordering::Relaxed);
        if let Some(Some(held)) = state.held.get_mut(slot) {
            held.done = true;
        }
        state.verdicts.push((slot, verdict));
        let left = state.verdicts.len();
        self.returned(&mut state);
        if left == 1 || left == BATCH || state.busy == 0 {
            self.verdicts.notify_one();
        }
        left
    }

    /// A job that did not start, and whose lease is void.
    fn forget(&self, ticket: &Ticket) {
        let mut state = self.state.lock();
        let held = state.let_go(ticket.slot.load(Ordering::Relaxed));
        self.returned(&mut state);
        self.verdicts.notify_one();
        drop(state);
        discard("a job", held);
    }

    fn returned(&self, state: &mut State) {
        state.busy = state.busy.saturating_sub(1);
        if state.busy == 0 {
            self.ended.notify_all();
        }
        if state.busy == 0 || self.room(state) == self.enough() {
            self.room.notify_one();
        }
    }

    fn room(&self, state: &State) -> usize {
        (self.workers + self.options.prefetch).saturating_sub(state.busy)
    }

    /// For how many orders there must be room before any are fetched. A worker that is free is never kept waiting.
    fn enough(&self) -> usize {
        self.options.prefetch / 2 + 1
    }

    /// Has everybody see that it is time to stop.
    fn stop(&self) -> Tally {
        let mut state = self.state.lock();
        state.stopping = true;
        self.room.notify_all();
        self.verdicts.notify_all();
        state.tally
    }

    fn abandon(&self) {
        let mut state = self.state.lock();
        state.abandoned = true;
        self.room.notify_all();
        self.verdicts.notify_all();
        self.taken.notify_all();
    }

    fn fetch(self: &Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        while let Some(room) = self.wait_for_room() {
            match flat(contain(|| self.queue.lease(room, self.options.lease, WAIT))) {
                Ok(leases) => {
                    pause = FIRST_PAUSE;
                    self.take(leases);
                }
                Err(error) => {
                    log(log::Level::Warn, format_args!("no orders can be fetched: {error}"));
                    let until = Tick::now().after(pause);
                    let mut state = self.state.lock();
                    while let Some(left) = until.since(Tick::now()).filter(|_| !state.stopping) {
                        self.room.wait_for(&mut state, left);
                    }
                    pause = pause.saturating_mul(2).min(LAST_PAUSE);
                }
            }
        }
        self.state.lock().fetcher_ended = true;
        self.verdicts.notify_all();
        self.ended.notify_all();
    }

    /// How many orders can be taken; `None` when it is time to stop.
    fn wait_for_room(&self) -> Option<usize> {
        let mut state = self.state.lock();
        loop {
            if state.stopping {
                return None;
            }
            let room = self.room(&state);
            if room >= self.enough() {
                return Some(room);
            }
            self.room.wait(&mut state);
        }
    }

    /// `false` when it is time to stop.
    fn wait_until_idle(&self) -> bool {
        let mut state = self.state.lock();
        while state.busy > 0 && !state.stopping {
            self.room.wait(&mut state);
        }
        !state.stopping
    }

    /// Starts what was handed out, or settles it at once.
    fn take(self: &Arc<Self>, leases: Vec<Lease>) {
        let max = self.options.max_deliveries;
        // From before the call that leased them it would be exact; so it is late by the time that the answer took.
        let now = Tick::now();
        let lease_ends = now.after(self.options.lease);
        let (mut to_run, mut alone) = (Vec::with_capacity(leases.len()), Vec::new());
        for Lease { order, token, failures, deliveries, cancelled } in leases {
            if deliveries > 1 && self.is_still_run(token, now, lease_ends) {
                continue;
            }
            let ticket = Arc::new(Ticket {
                order,
                slot: AtomicUsize::new(0),
                failures,
                state: AtomicU8::new(WAITING),
                lease_ends: AtomicU64::new(lease_ends.bits()),
                cancelled: AtomicBool::new(cancelled),
            });
            let verdict = if cancelled {
                Verdict::Discard(CANCELLED.to_owned())
            } else if ticket.deadline_passed() {
                Verdict::Dead(DEADLINE.to_owned())
            } else if deliveries > max {
                Verdict::Dead(format!("poison: handed out {} times without an outcome", deliveries - 1))
            } else if !self.catalog.contains(ticket.order.operation()) {
                Verdict::Dead(QueueError::unknown_operation(ticket.order.operation()).to_string())
            } else if deliveries == max && max > 1 {
                alone.push((ticket, token));
                continue;
            } else {
                to_run.push((ticket, token));
                continue;
            };
            self.settle_unstarted(ticket, token, verdict);
        }
        self.launch(to_run);
        for (ticket, token) in alone {
            if self.wait_until_idle() {
                self.launch(vec![(ticket, token)]);
                self.wait_until_idle();
            } else {
                self.settle_unstarted(ticket, token, Verdict::Release);
            }
        }
    }

    /// Whether it is run here, its lease having lapsed and nobody else having been as quick.
    fn is_still_run(&self, token: LeaseToken, now: Tick, lease_ends: Tick) -> bool {
        let mut state = self.state.lock();
        let own = |held: &&mut Held| held.token.id == token.id && !held.done && !held.is_late(now);
        let Some(held) = state.held.iter_mut().flatten().find(own) else { return false };
        held.token = token;
        held.lost = false;
        held.ticket.lease_ends.store(lease_ends.bits(), Ordering::Release);
        true
    }

    fn settle_unstarted(&self, ticket: Arc<Ticket>, token: LeaseToken, verdict: Verdict) {
        let mut state = self.state.lock();
        let slot = state.hold(Held { ticket, token, handle: None, lost: false, done: true });
        state.verdicts.push((slot, verdict));
        self.verdicts.notify_one();
    }

    /// Submits the jobs of these; or hands them back, if it is time to stop.
    fn launch(self: &Arc<Self>, tickets: Vec<(Arc<Ticket>, LeaseToken)>) {
        {
            let mut state = self.state.lock();
            if !state.stopping {
                state.busy += tickets.len();
                for (ticket, token) in &tickets {
                    let held = Held {
                        ticket: Arc::clone(ticket),
                        token: *token,
                        handle: None,
                        lost: false,
                        done: false,
                    };
                    let slot = state.hold(held);
                    ticket.slot.store(slot, Ordering::Relaxed);
                }
            } else {
                drop(state);
                for (ticket, token) in tickets {
                    self.settle_unstarted(ticket, token, Verdict::Release);
                }
                return;
            }
        }
        let job = |(ticket, _): &(Arc<Ticket>, LeaseToken)| {
            let attempt = Attempt { ticket: Arc::clone(ticket), shared: Arc::clone(self) };
            let job = job_of(&ticket.order, move |ctx| attempt.run(ctx));
            if self.options.timeout == Duration::MAX { job } else { job.with_timeout(self.options.timeout) }
        };
        let rest = match self.submitter.try_submit_all(tickets.iter().map(job)) {
            Ok(handles) => {
                self.keep(&tickets, handles);
                return;
            }
            Err(refused) => {
                let accepted = refused.accepted.len();
                self.keep(&tickets[..accepted], refused.accepted);
                tickets[accepted..].iter().zip(refused.rest)
            }
        };
        for (ticket, job) in rest {
            self.launch_one(ticket, job);
        }
    }

    fn launch_one(&self, ticket: &(Arc<Ticket>, LeaseToken), mut job: Job) {
        let submitted = loop {
            match self.submitter.submit_timeout(job, FIRST_PAUSE) {
                Err(SubmitError::Timeout(back)) if !self.state.lock().stopping => job = back,
                submitted => break submitted,
            }
        };
        match submitted {
            Ok(handle) => self.keep(std::slice::from_ref(ticket), vec![handle]),
            Err(error) => {
                if matches!(error, SubmitError::ShutDown(_)) {
                    self.stop();
                }
                // The drop of the attempt hands the order back.
                discard("a refused job", error);
            }
        }
    }

    /// Keeps the handles of what has been submitted, if it is not settled already, and cancels what was lost or cancelled
    /// before it had one.
    fn keep(&self, tickets: &[(Arc<Ticket>, LeaseToken)], handles: Vec<JobHandle>) {
        let (mut settled, mut to_cancel) = (Vec::new(), Vec::new());
        let mut state = self.state.lock();
        for ((ticket, _), handle) in tickets.iter().zip(handles) {
            let slot = ticket.slot.load(Ordering::Relaxed);
            match state.held.get_mut(slot) {
                Some(Some(held)) if Arc::ptr_eq(&held.ticket, ticket) => {
                    if held.lost {
                        to_cancel.push((handle.clone(), LEASE_LOST));
                    } else if ticket.cancelled.load(Ordering::Acquire) {
                        to_cancel.push((handle.clone(), ORDER_CANCELLED));
                    }
                    held.handle = Some(handle);
                }
                _ => settled.push(handle),
            }
        }
        drop(state);
        discard("jobs", settled);
        cancel_all(to_cancel);
    }

    fn settle(&self) {
        let third = self.options.lease / 3;
        let mut renew_at = Tick::now().after(third);
        let mut batch: Vec<(usize, Verdict)> = Vec::new();
        let mut pause = FIRST_PAUSE;
        // When a batch that is not full goes, or one that did not go is tried again.
        let mut send_at = Tick::NEVER;
        let mut failed = false;
        loop {
            {
                let mut state = self.state.lock();
                loop {
                    if state.abandoned || (state.fetcher_ended && state.holds_nothing()) {
                        state.settler_ended = true;
                        self.ended.notify_all();
                        return;
                    }
                    let now = Tick::now();
                    if batch.is_empty() && !state.verdicts.is_empty() {
                        if send_at == Tick::NEVER {
                            send_at = now.after(LINGER);
                        }
                        if state.verdicts.len() >= BATCH
                            || state.busy == 0
                            || state.stopping
                            || send_at <= now
                        {
                            std::mem::swap(&mut batch, &mut state.verdicts);
                            self.taken.notify_all();
                            send_at = now;
                        }
                    }
                    if (!batch.is_empty() && send_at <= now) || renew_at <= now {
                        break;
                    }
                    self.verdicts.wait_for(&mut state, renew_at.min(send_at).since(now).unwrap_or_default());
                }
            }
            if renew_at <= Tick::now() {
                self.renew();
                renew_at = Tick::now().after(third);
            }
            if batch.is_empty() || (failed && Tick::now() < send_at) {
                continue;
            }
            match self.send(&batch) {
                Ok(()) => {
                    batch.clear();
                    (send_at, pause, failed) = (Tick::NEVER, FIRST_PAUSE, false);
                }
                Err(error) => {
                    log(log::Level::Warn, format_args!("{} orders cannot be settled: {error}", batch.len()));
                    (send_at, failed) = (Tick::now().after(pause), true);
                    pause = pause.saturating_mul(2).min(LAST_PAUSE);
                }
            }
        }
    }

    /// Settles these, and lets go of them.
    fn send(&self, batch: &[(usize, Verdict)]) -> Result<(), QueueError> {
        let settlements: Vec<Settlement> = {
            let state = self.state.lock();
            let settlement = |(slot, verdict): &(usize, Verdict)| {
                let held = state.held.get(*slot)?.as_ref().filter(|held| !held.lost)?;
                Some(Settlement { token: held.token, verdict: verdict.clone() })
            };
            batch.iter().filter_map(settlement).collect()
        };
        let tokens: Vec<LeaseToken> = settlements.iter().map(|settlement| settlement.token).collect();
        let answers = flat(contain(|| self.queue.settle(settlements)))?;
        // In the sequence of the batch, and without what was lost before.
        let mut settled = tokens.into_iter().zip(answers).peekable();
        let (mut gone, mut lost) = (Vec::with_capacity(batch.len()), Vec::new());
        let mut state = self.state.lock();
        for (slot, verdict) in batch {
            let Some(held) = state.let_go(*slot) else { continue };
            let answer = settled.next_if(|(token, _)| *token == held.token);
            let tally = &mut state.tally;
            match verdict {
                _ if !answer.is_some_and(|(_, settled)| settled) => lost.push(held.token.id),
                Verdict::Complete(_) => tally.completed += 1,
                Verdict::Retry { .. } | Verdict::Dead(_) => tally.failed += 1,
                Verdict::Discard(_) => tally.cancelled += 1,
                Verdict::Release => tally.handed_back += 1,
            }
            gone.push(held);
        }
        if state.stopping {
            self.ended.notify_all();
        }
        drop(state);
        discard("jobs", gone);
        for id in lost {
            log(
                log::Level::Warn,
                format_args!("the lease of order {id} was lost; what came of it does not count"),
            );
        }
        Ok(())
    }

    fn renew(&self) {
        let now = Tick::now();
        let (slots, tokens): (Vec<usize>, Vec<LeaseToken>) = {
            let state = self.state.lock();
            let held = state.held.iter().enumerate();
            let held = held.filter_map(|(slot, held)| Some((slot, held.as_ref()?)));
            held.filter(|(_, held)| !held.lost && !held.is_late(now))
                .map(|(slot, held)| (slot, held.token))
                .unzip()
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
        for ((slot, token), renewal) in slots.into_iter().zip(&tokens).zip(renewals) {
            let Some(Some(held)) = state.held.get_mut(slot) else { continue };
            if held.token != *token {
                continue;
            }
            let why = match renewal {
                Renewal::Lost => {
                    held.lost = true;
                    LEASE_LOST
                }
                Renewal::Held | Renewal::Cancelled => {
                    held.ticket.lease_ends.store(now.after(self.options.lease).bits(), Ordering::Release);
                    if renewal == Renewal::Held || held.ticket.cancelled.swap(true, Ordering::AcqRel) {
                        continue;
                    }
                    ORDER_CANCELLED
                }
            };
            to_cancel.extend(held.handle.clone().map(|handle| (handle, why)));
        }
        drop(state);
        cancel_all(to_cancel);
    }

    /// Waits until `holds`, or this tick, and says which.
    fn wait_until(&self, until: Tick, mut holds: impl FnMut(&mut State) -> bool) -> bool {
        let mut state = self.state.lock();
        loop {
            if holds(&mut state) {
                return true;
            }
            if until == Tick::NEVER {
                self.ended.wait(&mut state);
                continue;
            }
            let Some(left) = until.since(Tick::now()) else { return false };
            self.ended.wait_for(&mut state, left);
        }
    }
}

/// Cancelling calls functions of the user's, and leases are to be renewed meanwhile: so a thread of its own does it.
fn cancel_all(jobs: Vec<(JobHandle, &'static str)>) {
    if jobs.is_empty() {
        return;
    }
    let cancel = move || {
        jobs.into_iter().for_each(|(handle, why)| {
            handle.cancel_for(Cancel::at(Origin::OrderQueue, Some(cause_of(why)), None));
        })
    };
    let _ = std::thread::Builder::new().name("workpath-cancel".into()).spawn(cancel);
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
    /// Nothing more is fetched, and what has not started goes back to the queue. What runs is waited for, or cancelled,
    /// as `how` says; a cancelled order goes back to the queue as well. What does not return in time is reported as
    /// stuck: its lease lapses, and another process takes the order. The queue gets what is finished before this
    /// returns, unless it does not answer in time.
    ///
    /// Called from inside an order that it serves, it does not wait, as it would wait for itself: the report is of what has
    /// ended by then, the rest is reported as stuck, and what comes of that is settled when it returns.
    #[track_caller]
    pub fn stop(mut self, how: Shutdown) -> ShutdownReport {
        self.end(how, Some(Location::caller()))
    }

    fn end(&mut self, how: Shutdown, caller: Caller) -> ShutdownReport {
        let Some(fetcher) = self.fetcher.take() else { return ShutdownReport::default() };
        let shared = Arc::clone(&self.shared);
        let limit = Tick::now().after(how.limit());
        let before = shared.stop();
        if INSIDE.with_borrow(|inside| inside.contains(&shared.address())) {
            let _ = contain(|| shared.queue.wake());
            self.settler = None;
            self.take_back(!how.cancels(), caller);
            return self.report(before);
        }
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
        self.take_back(!how.cancels(), caller);
        if !shared.wait_until(limit, |state| state.busy == 0) {
            self.take_back(false, caller);
            shared.wait_until(Tick::now().after(GRACE), |state| state.busy == 0);
        }
        let is_busy = shared.state.lock().busy > 0;
        let by = if is_busy { Tick::now().after(GRACE) } else { limit.max(Tick::now().after(GRACE)) };
        let done = |held: &Held| !held.done;
        shared.wait_until(by, |state| state.settler_ended || (is_busy && state.all_held().all(done)));
        let mut report = self.report(before);
        shared.abandon();
        if shared.wait_until(Tick::now().after(GRACE), |state| state.settler_ended) {
            if let Some(settler) = self.settler.take() {
                let _ = settler.join();
            }
        }
        let stuck = std::mem::take(&mut report.stuck);
        ShutdownReport { stuck, ..self.report(before) }
    }

    /// Hands back what waits, and cancels what runs, unless it is for the unstarted only. What waits is taken back
    /// here: its job may be in somebody's hands, and cancelling it would not drop it.
    fn take_back(&self, unstarted_only: bool, caller: Caller) {
        let held: Vec<(Arc<Ticket>, Option<JobHandle>)> = {
            let state = self.shared.state.lock();
            state.all_held().map(|held| (Arc::clone(&held.ticket), held.handle.clone())).collect()
        };
        for (ticket, handle) in held {
            let revoked = handle.is_some() && ticket.revoke();
            if revoked {
                self.shared.leave(&ticket, Verdict::Release);
            }
            if let Some(handle) = handle.filter(|_| revoked || !unstarted_only) {
                let cause = cause_of("the serving is stopped");
                handle.cancel_for(Cancel::at(Origin::Shutdown, Some(cause), caller));
            }
        }
    }

    /// What has been settled since the tally was this, and what has not returned.
    fn report(&self, before: Tally) -> ShutdownReport {
        let (tally, running): (Tally, Vec<JobId>) = {
            let state = self.shared.state.lock();
            let running = state.all_held().filter(|held| !held.done && held.handle.is_some());
            (state.tally, running.map(|held| held.token.id).collect())
        };
        ShutdownReport {
            completed: tally.completed - before.completed,
            failed: tally.failed - before.failed,
            cancelled: tally.cancelled - before.cancelled,
            handed_back: tally.handed_back - before.handed_back,
            stuck: if running.is_empty() { Vec::new() } else { self.workers_in(&running) },
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
    /// Two threads are started: one fetches orders, only as many as there are free workers, and one settles them and
    /// renews their leases. The orders run as jobs of this delegator, beside others that are submitted, with the same
    /// records, deadlines and log lines. One that fails is tried again after a backoff, or when its error
    /// [says](crate::Error::retry_after). One that has used up its attempts, whose error is
    /// [permanent](crate::Error::permanent), whose operation is not in the catalog, or whose deadline has passed,
    /// becomes a dead letter.
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
            room: Condvar::new(),
            verdicts: Condvar::new(),
            taken: Condvar::new(),
            ended: Condvar::new(),
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
                serving.shared.abandon();
                return Err(error);
            }
        }
        Ok(serving)
    }
}
