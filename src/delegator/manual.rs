//! A delegator without threads, for tests.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::Delegator;
use super::shutdown::Closing;
use super::thread::{self, Plan};
use crate::clock::{self, Tick, WallOffset};
use crate::context;
use crate::driver::{self, Driven, Stepped};
use crate::engine::Engine;
use crate::panics::{self, discard};
use crate::queue::Phase;
use crate::random;
use crate::sync::channel::unbounded;
use crate::sync::{Arc, Mutex};
use crate::worker::{Hook, Worker};

/// A [`Delegator`] for tests: no threads, and a clock that stands still until it is turned.
///
/// It has everything that a delegator has (it dereferences to one), and runs its jobs on the thread that made it, one at a
/// time and always in the same order: in [`step`](Manual::step), [`run_until_idle`](Manual::run_until_idle) and
/// [`advance`](Manual::advance), and wherever that thread waits for it.
///
/// # Time
///
/// While it exists, the time is virtual on the thread that made it, for everything of this crate: contexts, deadlines,
/// delays, sleeps, and the times in records, also those of the wall clock. It starts at the real time, never goes back, and
/// passes in two ways.
///
/// * `advance` turns the clock. On the way everything that is due happens in the order of time: jobs run, deadlines end
///   jobs, functions given to [`on_done`](crate::Context::on_done) are called.
/// * To wait is to let time pass: [`Context::sleep`](crate::Context::sleep) returns at once, and the time is later.
///   [`JobHandle::wait`](crate::JobHandle::wait), [`wait_idle`](Delegator::wait_idle), a [`submit`](Delegator::submit) onto
///   a full queue and a [`shutdown`](Delegator::shutdown) run what is queued and then let time pass to whatever is due next.
///
/// [`Instant::now`] does not follow; [`now`](Manual::now) tells the virtual time. Manual delegators of the same thread share
/// the clock. Other threads have the real time; a receiver, [`done`](crate::JobHandle::done) included, and a lock block for
/// real.
///
/// A job is found [stuck](crate::Builder::stuck_after) when the clock passes its margin while it runs, which takes a
/// job that sleeps or waits by something other than its own context.
///
/// # Deterministic
///
/// It behaves like a delegator with one worker. Jobs start in the order in which they were queued, or in one that a
/// [seed](Manual::seeded) gives. A job that waits for another of the same delegator runs that one and no other, as
/// on a worker. Only ids differ from run to run.
///
/// # Panics
///
/// Where a wait could never end, since nothing can run and nothing is due later, the wait panics rather than hang the test;
/// inside a job this ends the job. It cannot know of other threads that would end the wait: do not let it wait for those.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{Delegator, Job, JobState};
///
/// let delegator = Delegator::manual();
/// let nap = Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(3600)).map(|()| Vec::new()));
/// let late = Job::new("late", |_| Ok(Vec::new())).with_timeout(Duration::from_secs(60));
/// let (nap, late) = (delegator.submit(nap)?, delegator.submit(late)?);
/// assert_eq!(nap.state(), JobState::Queued);
///
/// delegator.run_until_idle(); // takes no time at all
/// assert_eq!(nap.wait().run_time(), Duration::from_secs(3600));
/// assert_eq!(late.state(), JobState::TimedOut);
/// # Ok::<(), workpath::SubmitError>(())
/// ```
pub struct Manual {
    delegator: Delegator,
    // Behind the delegator, whose drop is driven by it.
    seat: Seat,
}

impl Delegator {
    /// A delegator for tests, without threads and with a clock of its own: see [`Manual`]. For other settings than the
    /// defaults there is [`Builder::manual`](crate::Builder::manual).
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::manual();
    /// let handle = delegator.submit(Job::new("answer", |_| Ok(vec![42])))?;
    /// assert!(!handle.is_finished());
    /// assert!(delegator.step());
    /// assert_eq!(handle.join()?, [42]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn manual() -> Manual {
        match Delegator::builder().workers(1).manual() {
            Ok(manual) => manual,
            Err(error) => unreachable!("the defaults are valid: {error}"),
        }
    }
}

impl Manual {
    pub(crate) fn new(mut plan: Plan) -> Manual {
        // The delegator thread is told nothing: this thread looks itself.
        let (admin, _) = unbounded();
        let engine = thread::engine(&plan, admin);
        // The ids of jobs differ from run to run.
        engine.retries.seed(0);
        let closing = Arc::new(Closing::new(1));
        let hooks = (plan.on_worker_start.take(), plan.on_worker_stop.take());
        if clock::begin_virtual() {
            context::begin_virtual();
        }
        let worker = Worker::new(Arc::clone(&engine), 0);
        worker.act(|worker| worker.call("on_worker_start", hooks.0));
        let hand = Rc::new(Hand {
            engine: Arc::clone(&engine),
            worker,
            closing: Arc::clone(&closing),
            busy: Cell::new(false),
            stopped: Cell::new(false),
            random: Cell::new(None),
            on_stop: RefCell::new(hooks.1),
        });
        driver::enlist(Rc::clone(&hand) as Rc<dyn Driven>);
        Manual { delegator: Delegator { engine, closing, thread: Mutex::new(None) }, seat: Seat(hand) }
    }

    /// Has the queued jobs start in a random order instead of their own, always the same one for the same seed. For
    /// finding out what depends on the order.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use workpath::{Delegator, Job};
    ///
    /// let run = |seed| {
    ///     let delegator = Delegator::manual().seeded(seed);
    ///     let order = Arc::new(Mutex::new(Vec::new()));
    ///     for n in 0..10 {
    ///         let order = Arc::clone(&order);
    ///         let job = Job::new("note", move |_| {
    ///             order.lock().unwrap().push(n);
    ///             Ok(Vec::new())
    ///         });
    ///         let _ = delegator.submit(job).unwrap();
    ///     }
    ///     delegator.run_until_idle();
    ///     let order = order.lock().unwrap().clone();
    ///     order
    /// };
    /// assert_eq!(run(7), run(7));
    /// assert_ne!(run(7), run(8));
    /// ```
    #[must_use = "this is the delegator"]
    pub fn seeded(self, seed: u64) -> Manual {
        self.seat.0.random.set(Some(seed));
        self.engine.retries.seed(seed);
        self
    }

    /// Runs the next job that can run now, and says whether there was one. Jobs that have ended in the queue do not count.
    /// Inside a job it runs nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Delegator;
    ///
    /// assert!(!Delegator::manual().step());
    /// ```
    pub fn step(&self) -> bool {
        let ran = self.seat.0.step() == Stepped::Ran;
        if !ran {
            driver::leave();
        }
        ran
    }

    /// Runs what can run now, jobs that it submits included, and says how many jobs it ran. The clock moves only if jobs
    /// sleep; while they sleep for so long that the next is always due, this has no end, and [`advance`](Manual::advance)
    /// has one.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::manual();
    /// for _ in 0..3 {
    ///     let _ = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// }
    /// assert_eq!(delegator.run_until_idle(), 3);
    /// # Ok::<(), workpath::SubmitError>(())
    /// ```
    pub fn run_until_idle(&self) -> usize {
        let mut ran = 0;
        while driver::step() {
            ran += 1;
        }
        driver::leave();
        ran
    }

    /// Turns the clock on by this much, and does on the way, in the order of time, everything that is due: runs jobs, fires
    /// deadlines. Says how many jobs it ran. Jobs that sleep turn the clock themselves, and may turn it further; what would
    /// start only then stays queued.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Context, Delegator};
    ///
    /// let delegator = Delegator::manual();
    /// let ctx = Context::background().with_timeout(Duration::from_secs(60));
    /// delegator.advance(Duration::from_secs(59));
    /// assert_eq!(ctx.remaining(), Some(Duration::from_secs(1)));
    /// delegator.advance(Duration::from_secs(1));
    /// assert!(ctx.is_done());
    /// ```
    pub fn advance(&self, time: Duration) -> usize {
        let mut ran = 0;
        driver::run_to(Tick::now().after(time), || ran += 1);
        ran
    }

    /// The virtual time, to make deadlines of.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::Delegator;
    ///
    /// let delegator = Delegator::manual();
    /// let start = delegator.now();
    /// delegator.advance(Duration::from_secs(60));
    /// assert_eq!(delegator.now() - start, Duration::from_secs(60));
    /// ```
    pub fn now(&self) -> Instant {
        Tick::now().instant().unwrap_or_else(Instant::now)
    }

    /// The virtual time by the wall clock: to make times of for [`Job::not_before`](crate::Job::not_before).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::Delegator;
    ///
    /// let delegator = Delegator::manual();
    /// let start = delegator.wall_clock();
    /// delegator.advance(Duration::from_secs(60));
    /// assert_eq!(delegator.wall_clock(), start + Duration::from_secs(60));
    /// ```
    pub fn wall_clock(&self) -> SystemTime {
        let now = Tick::now();
        WallOffset::current(now).time(now)
    }

    /// Sets the wall clock, as an administrator or a time server does; [`now`](Manual::now) and everything that goes by it
    /// stays as it is. Times before 1970 count as 1970.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job, JobState};
    ///
    /// let delegator = Delegator::manual();
    /// let noon = delegator.wall_clock() + Duration::from_secs(3600);
    /// let lunch = delegator.submit(Job::new("lunch", |_| Ok(Vec::new())).not_before(noon))?;
    /// delegator.set_wall_clock(noon);
    /// delegator.advance(Duration::from_secs(30)); // by then it has been noticed
    /// assert_eq!(lunch.state(), JobState::Completed);
    /// # Ok::<(), workpath::SubmitError>(())
    /// ```
    pub fn set_wall_clock(&self, time: SystemTime) {
        clock::set_virtual_wall(time);
    }
}

impl Deref for Manual {
    type Target = Delegator;

    fn deref(&self) -> &Delegator {
        &self.delegator
    }
}

impl fmt::Debug for Manual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Manual").field(&self.delegator).finish()
    }
}

/// The place of a manual delegator on its thread.
struct Seat(Rc<Hand>);

impl Drop for Seat {
    fn drop(&mut self) {
        driver::remove(&(Rc::clone(&self.0) as Rc<dyn Driven>));
        if clock::end_virtual() {
            context::end_virtual();
        }
    }
}

/// Works for a manual delegator.
struct Hand {
    engine: Arc<Engine>,
    worker: Rc<Worker>,
    closing: Arc<Closing>,
    /// In a job.
    busy: Cell<bool>,
    stopped: Cell<bool>,
    /// The state of the generator, for an order by chance.
    random: Cell<Option<u64>>,
    on_stop: RefCell<Option<Hook>>,
}

impl Hand {
    /// Runs the next job if there is one.
    fn work(&self) -> Stepped {
        let queue = &self.engine.queue;
        let mut nothing = Stepped::Idle;
        loop {
            self.fire(Tick::now());
            if queue.phase() == Phase::Stopped {
                return nothing;
            }
            self.shuffle();
            let next = if queue.phase() == Phase::Open { queue.try_pop() } else { self.engine.take_left() };
            let Some(task) = next else { return nothing };
            let ran = self.worker.act(|worker| worker.execute_inline(task));
            queue.offer();
            if ran {
                return Stepped::Ran;
            }
            nothing = Stepped::Cleared;
        }
    }

    /// Moves a random one of the queued jobs to the front.
    fn shuffle(&self) {
        let queue = &self.engine.queue;
        let Some(mut state) = self.random.get().filter(|_| queue.holds_any()) else { return };
        let number = random::next(&mut state);
        self.random.set(Some(state));
        let turns = number % (queue.ready().max(1) as u64);
        for _ in 0..turns {
            let Some(task) = queue.try_pop() else { return };
            // Also where somebody else has taken the place meanwhile.
            queue.push_due(task.level(), task);
        }
    }
}

impl Driven for Hand {
    fn step(&self) -> Stepped {
        if self.busy.replace(true) {
            return Stepped::Idle;
        }
        let stepped = self.work();
        self.busy.set(false);
        stepped
    }

    fn leave(&self) -> bool {
        let queue = &self.engine.queue;
        let is_over = match queue.phase() {
            Phase::Open => false,
            Phase::Draining => queue.is_empty(),
            Phase::Stopped => true,
        };
        if self.busy.get() || !is_over || self.stopped.replace(true) {
            return false;
        }
        let hook = self.on_stop.take();
        self.worker.act(|worker| worker.call("on_worker_stop", hook));
        self.closing.worker_stopped(0);
        self.closing.workers_joined();
        true
    }

    fn next(&self) -> Tick {
        self.engine.alarm.next()
    }

    fn fire(&self, now: Tick) {
        let alarm = &self.engine.alarm;
        if alarm.next() <= now {
            alarm.clear();
            for (_, line) in self.engine.look_around(now) {
                panics::log(log::Level::Warn, format_args!("{line}"));
            }
        }
    }

    fn drives(&self, owner: *const ()) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.engine), owner)
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        discard("a hook of a worker", self.on_stop.take());
    }
}
