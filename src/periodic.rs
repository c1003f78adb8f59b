//! Jobs that are made and submitted again and again.
//!
//! 1. A series has at most one tick in the agenda that is to come, and at most one more that is owed and due at once.
//! 2. When a tick is due, the delegator thread puts it in the queue like a job, and a worker takes it: the function
//!    that makes the job is user code. A tick is no job: it has no record and is not counted. Its worker runs the job
//!    that it makes at once, since it has had its turn, unless that has a delay, a priority or the like.
//! 3. The end of a job tells the series, which then gives what it owes or, with a fixed delay, sets the next tick.

use std::fmt;
use std::time::Duration;

use crate::clock::Tick;
use crate::delegator::submit_here;
use crate::engine::Engine;
use crate::handle::JobHandle;
use crate::job::Job;
use crate::panics::{contain, discard, log};
use crate::queue::Phase;
use crate::sync::{Arc, Mutex, Weak};

/// When the jobs of [`Delegator::every`](crate::Delegator::every) come. A plain [`Duration`] is a fixed rate.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{Every, Missed, Overlap};
///
/// let minutely = Every::fixed_rate(Duration::from_secs(60)).missed(Missed::CatchUp).overlap(Overlap::Queue);
/// let pauses = Every::fixed_delay(Duration::from_secs(60)).first_after(Duration::ZERO);
/// # let _ = (minutely, pauses);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "it does nothing until it is given to a delegator"]
pub struct Every {
    interval: Duration,
    first: Duration,
    by_rate: bool,
    missed: Missed,
    overlap: Overlap,
}

impl Every {
    /// A tick in every interval, however long the jobs take: the times are the start and whole intervals after it, so a late
    /// tick makes no other one late. The first comes after one interval.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Every, Job};
    ///
    /// let delegator = Delegator::manual();
    /// let every = Every::fixed_rate(Duration::from_secs(10));
    /// let nap = || Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(3)).map(|()| Vec::new()));
    /// let series = delegator.every(every, nap)?;
    /// delegator.advance(Duration::from_secs(30)); // at 10 s, 20 s and 30 s
    /// assert_eq!(series.submitted(), 3);
    /// # Ok::<(), workpath::PeriodicError>(())
    /// ```
    pub const fn fixed_rate(interval: Duration) -> Every {
        let (missed, overlap) = (Missed::Skip, Overlap::Skip);
        Every { interval, first: interval, by_rate: true, missed, overlap }
    }

    /// A tick so long after the job before has ended, so no two run at the same time, and none is missed. The first
    /// comes after one interval.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Every, Job};
    ///
    /// let delegator = Delegator::manual();
    /// let every = Every::fixed_delay(Duration::from_secs(10));
    /// let nap = || Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(3)).map(|()| Vec::new()));
    /// let series = delegator.every(every, nap)?;
    /// delegator.advance(Duration::from_secs(30)); // at 10 s and 23 s
    /// assert_eq!(series.submitted(), 2);
    /// # Ok::<(), workpath::PeriodicError>(())
    /// ```
    pub const fn fixed_delay(interval: Duration) -> Every {
        let (missed, overlap) = (Missed::Skip, Overlap::Skip);
        Every { interval, first: interval, by_rate: false, missed, overlap }
    }

    /// Has the first tick come after this time instead of one interval; zero is at once.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Every, Job};
    ///
    /// let delegator = Delegator::manual();
    /// let every = Every::fixed_rate(Duration::from_secs(10)).first_after(Duration::ZERO);
    /// let series = delegator.every(every, || Job::new("work", |_| Ok(Vec::new())))?;
    /// delegator.advance(Duration::from_secs(10));
    /// assert_eq!(series.submitted(), 2);
    /// # Ok::<(), workpath::PeriodicError>(())
    /// ```
    pub const fn first_after(mut self, delay: Duration) -> Every {
        self.first = delay;
        self
    }

    /// What to do about ticks that nobody had time for. With a fixed delay there are none.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use workpath::{Every, Missed};
    /// let every = Every::fixed_rate(Duration::from_secs(10)).missed(Missed::CatchUp);
    /// # let _ = every;
    /// ```
    pub const fn missed(mut self, missed: Missed) -> Every {
        self.missed = missed;
        self
    }

    /// What to do about a tick that comes while the job of an earlier one is not finished. With a fixed delay there is none.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use workpath::{Every, Overlap};
    /// let every = Every::fixed_rate(Duration::from_secs(10)).overlap(Overlap::Queue);
    /// # let _ = every;
    /// ```
    pub const fn overlap(mut self, overlap: Overlap) -> Every {
        self.overlap = overlap;
        self
    }
}

impl From<Duration> for Every {
    /// [`Every::fixed_rate`].
    fn from(interval: Duration) -> Every {
        Every::fixed_rate(interval)
    }
}

/// What to do about ticks that nobody had time for: all workers were busy for longer than an interval. A tick that is
/// late by less is not missed, only late; of several that are due at once, the last is that one.
///
/// # Examples
///
/// ```
/// # use workpath::Missed;
/// assert_eq!(Missed::default(), Missed::Skip);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Missed {
    /// They are left out.
    #[default]
    Skip,
    /// There is one job more, for all of them together, after the one of the tick that is late.
    CatchUp,
}

/// What to do about a tick that comes while the job of an earlier one is not finished.
///
/// # Examples
///
/// ```
/// # use workpath::Overlap;
/// assert_eq!(Overlap::default(), Overlap::Skip);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overlap {
    /// It is left out, and counts as missed.
    #[default]
    Skip,
    /// Its job starts when the earlier one is finished. One tick waits like that; those that come meanwhile are missed.
    Queue,
}

/// Why [`Delegator::every`](crate::Delegator::every) did not begin.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{Delegator, Job, PeriodicError};
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// let error = delegator.every(Duration::ZERO, || Job::new("work", |_| Ok(Vec::new()))).unwrap_err();
/// assert_eq!(error, PeriodicError::ZeroInterval);
/// assert_eq!(error.to_string(), "an interval of zero has no end of ticks");
/// # Ok::<(), workpath::BuildError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeriodicError {
    /// The interval is zero.
    ZeroInterval,
    /// The delegator accepts no jobs any more.
    ShutDown,
}

impl fmt::Display for PeriodicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PeriodicError::ZeroInterval => "an interval of zero has no end of ticks",
            PeriodicError::ShutDown => "the delegator is shut down",
        })
    }
}

impl std::error::Error for PeriodicError {}

impl From<PeriodicError> for crate::Error {
    fn from(error: PeriodicError) -> crate::Error {
        crate::Error::new(error)
    }
}

/// The jobs that [`Delegator::every`](crate::Delegator::every) submits. Dropping it changes nothing: they come until it is
/// stopped or the delegator is shut down.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{Delegator, Job};
///
/// let delegator = Delegator::manual();
/// let series = delegator.every(Duration::from_secs(60), || Job::new("tidy up", |_| Ok(Vec::new())))?;
/// delegator.advance(Duration::from_secs(3600));
/// assert_eq!((series.submitted(), series.missed()), (60, 0));
/// assert!(series.stop());
/// # Ok::<(), workpath::PeriodicError>(())
/// ```
pub struct Periodic {
    series: Arc<Series>,
}

impl Periodic {
    /// Stops it, and says whether it was not stopped before. When this returns, no more jobs are made, but for one that is
    /// being made just now; the function is dropped. The last job goes on: [`last`](Periodic::last) gives its handle.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use workpath::{Delegator, Job};
    /// let delegator = Delegator::manual();
    /// let series = delegator.every(Duration::from_secs(60), || Job::new("work", |_| Ok(Vec::new())))?;
    /// assert!(series.stop() && !series.stop());
    /// delegator.advance(Duration::from_secs(60));
    /// assert_eq!(series.submitted(), 0);
    /// # Ok::<(), workpath::PeriodicError>(())
    /// ```
    pub fn stop(&self) -> bool {
        self.series.stop()
    }

    /// Whether it has been stopped, by [`stop`](Periodic::stop) or by a shutdown of the delegator.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use workpath::{Delegator, Job, Shutdown};
    /// let delegator = Delegator::manual();
    /// let series = delegator.every(Duration::from_secs(60), || Job::new("work", |_| Ok(Vec::new())))?;
    /// delegator.shutdown(Shutdown::drain());
    /// assert!(series.is_stopped());
    /// # Ok::<(), workpath::PeriodicError>(())
    /// ```
    pub fn is_stopped(&self) -> bool {
        self.series.state.lock().stopped
    }

    /// How many jobs it has submitted.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use workpath::{Delegator, Job};
    /// let delegator = Delegator::manual();
    /// let series = delegator.every(Duration::from_secs(60), || Job::new("work", |_| Ok(Vec::new())))?;
    /// delegator.advance(Duration::from_secs(150));
    /// assert_eq!(series.submitted(), 2);
    /// # Ok::<(), workpath::PeriodicError>(())
    /// ```
    pub fn submitted(&self) -> u64 {
        self.series.state.lock().submitted
    }

    /// How many ticks had no job: nobody had time for them, the job before was not finished, the function panicked, or the
    /// delegator refused the job.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use workpath::{Delegator, Job};
    /// let delegator = Delegator::manual();
    /// let series = delegator.every(Duration::from_secs(60), || panic!("no job"))?;
    /// delegator.advance(Duration::from_secs(60));
    /// assert_eq!(series.missed(), 1);
    /// # Ok::<(), workpath::PeriodicError>(())
    /// ```
    pub fn missed(&self) -> u64 {
        self.series.state.lock().missed
    }

    /// The handle of the last job, once there is one.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use workpath::{Delegator, Job, JobState};
    /// let delegator = Delegator::manual();
    /// let series = delegator.every(Duration::from_secs(60), || Job::new("work", |_| Ok(Vec::new())))?;
    /// assert!(series.last().is_none());
    /// delegator.advance(Duration::from_secs(60));
    /// assert_eq!(series.last().map(|handle| handle.state()), Some(JobState::Completed));
    /// # Ok::<(), workpath::PeriodicError>(())
    /// ```
    pub fn last(&self) -> Option<JobHandle> {
        self.series.state.lock().last.clone()
    }
}

impl fmt::Debug for Periodic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.series.state.lock();
        let (stopped, submitted, missed) = (state.stopped, state.submitted, state.missed);
        drop(state);
        f.debug_struct("Periodic")
            .field("every", &self.series.every)
            .field("stopped", &stopped)
            .field("submitted", &submitted)
            .field("missed", &missed)
            .finish_non_exhaustive()
    }
}

// The function is out of the series while it is called.
impl std::panic::UnwindSafe for Periodic {}
impl std::panic::RefUnwindSafe for Periodic {}

type Factory = Box<dyn FnMut() -> Job + Send>;

pub(crate) struct Series {
    engine: Weak<Engine>,
    every: Every,
    state: Mutex<State>,
}

struct State {
    /// `None` while it is called, and once stopped.
    factory: Option<Factory>,
    calling: bool,
    stopped: bool,
    /// When the next tick is due, with a fixed rate.
    next: Tick,
    /// Where the next tick is in the agenda.
    place: Option<TickPlace>,
    /// There is to be one job more when the last is finished.
    owed: bool,
    last: Option<JobHandle>,
    submitted: u64,
    missed: u64,
}

/// A key in the agenda.
pub(crate) type TickPlace = (Tick, u64);

/// A tick that is due.
#[derive(Clone)]
pub(crate) struct DueTick {
    pub(crate) series: Arc<Series>,
    /// It is beside those of the schedule.
    pub(crate) owed: bool,
}

pub(crate) fn begin(
    engine: &Arc<Engine>,
    every: Every,
    factory: impl FnMut() -> Job + Send + 'static,
) -> Result<Periodic, PeriodicError> {
    if every.interval.is_zero() {
        return Err(PeriodicError::ZeroInterval);
    }
    let next = Tick::now().after(every.first);
    let state = State {
        factory: Some(Box::new(factory)),
        calling: false,
        stopped: false,
        next,
        place: None,
        owed: false,
        last: None,
        submitted: 0,
        missed: 0,
    };
    let series = Arc::new(Series { engine: Arc::downgrade(engine), every, state: Mutex::new(state) });
    series.set(engine, next, false);
    if series.state.lock().stopped { Err(PeriodicError::ShutDown) } else { Ok(Periodic { series }) }
}

impl Series {
    pub(crate) fn stop(&self) -> bool {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.stopped, true) {
            return false;
        }
        let (place, factory) = (state.place.take(), state.factory.take());
        drop(state);
        if let (Some(place), Some(engine)) = (place, self.engine.upgrade()) {
            let tick = engine.agenda.lock().remove_tick(place);
            drop(tick);
            discard("a delegator", engine);
        }
        discard("the function of a periodic job", factory);
        true
    }

    /// Puts a tick in the agenda. Stops if nothing is scheduled any more.
    pub(crate) fn set(self: &Arc<Self>, engine: &Engine, at: Tick, owed: bool) {
        let mut agenda = engine.agenda.lock();
        if agenda.is_closed() {
            drop(agenda);
            self.stop();
            return;
        }
        {
            // Under both locks: a stop that comes first is seen here, one that comes later finds the place.
            let mut state = self.state.lock();
            if state.stopped {
                return;
            }
            let place = agenda.insert_tick(at, DueTick { series: Arc::clone(self), owed });
            if !owed {
                state.place = Some(place);
            }
        }
        drop(agenda);
        engine.alarm.set(at);
    }

    /// What a worker does about a tick. `true` if it ran a job.
    pub(crate) fn tick(self: &Arc<Self>, engine: &Arc<Engine>, owed: bool) -> bool {
        if engine.queue.phase() != Phase::Open {
            self.stop();
            return false;
        }
        let (next, factory) = {
            let mut state = self.state.lock();
            if state.stopped {
                return false;
            }
            let next = (self.every.by_rate && !owed).then(|| state.move_on(&self.every));
            (next, state.take_turn(self.every.overlap, owed))
        };
        if let Some(next) = next {
            self.set(engine, next, false);
        }
        let Some(mut factory) = factory else { return false };
        let made = contain(&mut factory);
        let unwanted = {
            let mut state = self.state.lock();
            state.calling = false;
            if state.stopped {
                Some(factory)
            } else {
                state.factory = Some(factory);
                None
            }
        };
        let is_stopped = unwanted.is_some();
        discard("the function of a periodic job", unwanted);
        let job = match made {
            Ok(job) if is_stopped => {
                discard("a job that is not wanted any more", job);
                return false;
            }
            Ok(job) => job,
            Err(panic) => {
                log(log::Level::Error, format_args!("panic in the function of a periodic job: {panic}"));
                self.failed();
                return false;
            }
        };
        match submit_here(engine, job, |handle| self.began(handle)) {
            Ok(ran) => ran,
            Err(refused) => {
                discard("a refused job", refused);
                self.failed();
                false
            }
        }
    }

    fn began(self: &Arc<Self>, handle: &JobHandle) {
        let mut state = self.state.lock();
        state.submitted += 1;
        let before = state.last.replace(handle.clone());
        drop(state);
        discard("a finished job", before);
        if !handle.task.tell_when_finished(self) {
            self.job_ended();
        }
    }

    fn failed(self: &Arc<Self>) {
        self.state.lock().missed += 1;
        self.job_ended();
    }

    /// The last job is finished, or there was none.
    pub(crate) fn job_ended(self: &Arc<Self>) {
        let Some(engine) = self.engine.upgrade() else { return };
        let owed = std::mem::take(&mut self.state.lock().owed);
        if owed {
            self.set(&engine, Tick::now(), true);
        } else if !self.every.by_rate {
            self.set(&engine, Tick::now().after(self.every.interval), false);
        }
        discard("a delegator", engine);
    }
}

impl State {
    /// Sets the time of the next tick, and counts those before it that had no time of their own.
    fn move_on(&mut self, every: &Every) -> Tick {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let late = Tick::now().since(self.next).unwrap_or_default();
        let passed = nanos(late) / nanos(every.interval);
        if passed > 0 {
            self.missed += passed;
            if every.missed == Missed::CatchUp && !std::mem::replace(&mut self.owed, true) {
                self.missed -= 1;
            }
        }
        let ahead = nanos(every.interval).saturating_mul(passed.saturating_add(1));
        self.next = self.next.after(Duration::from_nanos(ahead));
        self.next
    }

    /// The function, if it is to be called now.
    fn take_turn(&mut self, overlap: Overlap, owed: bool) -> Option<Factory> {
        let last_is_about = self.last.as_ref().is_some_and(|last| !last.task.state().is_finished());
        if !self.calling && !last_is_about {
            self.calling = true;
            return self.factory.take();
        }
        if owed || overlap == Overlap::Queue {
            if std::mem::replace(&mut self.owed, true) {
                self.missed += 1;
            }
        } else {
            self.missed += 1;
        }
        None
    }
}
