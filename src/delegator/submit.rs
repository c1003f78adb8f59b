//! Getting jobs in.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crate::clock::{self, Tick};
use crate::context::{Action, End};
use crate::engine::{Engine, Slot};
use crate::error::{Error, SubmitErrorKind};
use crate::events::Event;
use crate::extras::Start;
use crate::handle::{Coalesced, JobHandle};
use crate::id::JobId;
use crate::job::Job;
use crate::keys::Share;
use crate::overflow::{Displaced, Overflow};
use crate::pace::Pace;
use crate::panics::discard;
use crate::priority::{Level, Priority};
use crate::provenance::{Cancel, Cancelled, Origin};
use crate::queue::{Parker, Phase};
use crate::state::JobState;
use crate::sync::{self, Arc, Ordering, spin_loop};
use crate::task::Task;
use crate::worker;

/// How long a submitter waits for room for several before it asks for any.
const PATIENCE: Duration = Duration::from_millis(1);

/// How often a submitter looks for room before it parks.
const SPINS: u32 = sync::looks(128);

/// Why a job was not accepted. The job is inside, as it was.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job, Shutdown, SubmitError};
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// delegator.shutdown(Shutdown::drain());
/// match delegator.submit(Job::new("late", |_| Ok(Vec::new()))) {
///     Err(SubmitError::ShutDown(job)) => assert_eq!(job.name(), "late"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), workpath::BuildError>(())
/// ```
#[non_exhaustive]
pub enum SubmitError {
    /// The queue is full.
    Full(Job),
    /// The queue was full until the submission's time was over.
    Timeout(Job),
    /// The delegator accepts no jobs any more.
    ShutDown(Job),
    /// By the length of the queue, the job would not start before its deadline; see
    /// [`Builder::refuse_hopeless`](crate::Builder::refuse_hopeless).
    WouldMissDeadline(Job),
}

impl SubmitError {
    /// The job, to be submitted again or elsewhere.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job, Shutdown};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// delegator.shutdown(Shutdown::drain());
    /// let job = delegator.try_submit(Job::new("late", |_| Ok(Vec::new()))).unwrap_err().into_job();
    /// let elsewhere = Delegator::builder().workers(1).build()?;
    /// assert!(elsewhere.submit(job).is_ok());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn into_job(self) -> Job {
        match self {
            SubmitError::Full(job)
            | SubmitError::Timeout(job)
            | SubmitError::ShutDown(job)
            | SubmitError::WouldMissDeadline(job) => job,
        }
    }

    /// Why, without the job.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job, Shutdown, SubmitErrorKind};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// delegator.shutdown(Shutdown::drain());
    /// let error = delegator.submit(Job::new("late", |_| Ok(Vec::new()))).unwrap_err();
    /// assert_eq!(error.kind(), SubmitErrorKind::ShutDown);
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn kind(&self) -> SubmitErrorKind {
        self.parts().0
    }

    fn parts(&self) -> (SubmitErrorKind, &Job) {
        match self {
            SubmitError::Full(job) => (SubmitErrorKind::Full, job),
            SubmitError::Timeout(job) => (SubmitErrorKind::Timeout, job),
            SubmitError::ShutDown(job) => (SubmitErrorKind::ShutDown, job),
            SubmitError::WouldMissDeadline(job) => (SubmitErrorKind::WouldMissDeadline, job),
        }
    }
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (why, job) = self.parts();
        write!(f, "job {:?} was not accepted: {why}", job.name)
    }
}

impl fmt::Debug for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, job) = self.parts();
        f.debug_tuple(&format!("{kind:?}")).field(job).finish()
    }
}

impl std::error::Error for SubmitError {}

impl From<SubmitError> for Error {
    /// Keeps the text and drops the job.
    fn from(error: SubmitError) -> Error {
        let text = error.to_string();
        discard("a refused job", error);
        Error::from(text)
    }
}

/// Why some jobs of a batch were not accepted. Both parts are in the order of the batch, and every job of it is in one of
/// them.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job, Shutdown};
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// delegator.shutdown(Shutdown::drain());
/// let batch = ["a", "b"].map(|name| Job::new(name, |_| Ok(Vec::new())));
/// let refused = delegator.submit_all(batch).unwrap_err();
/// assert_eq!((refused.accepted.len(), refused.rest.len()), (0, 2));
/// assert_eq!(refused.to_string(), "2 of 2 jobs were not accepted: the delegator is shut down");
/// # Ok::<(), workpath::BuildError>(())
/// ```
#[non_exhaustive]
pub struct SubmitAllError {
    /// The jobs that were accepted.
    pub accepted: Vec<JobHandle>,
    /// Those that were not, as they were.
    pub rest: Vec<Job>,
    /// Why not.
    pub kind: SubmitErrorKind,
}

impl fmt::Display for SubmitAllError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = self.rest.len();
        let all = refused + self.accepted.len();
        write!(f, "{refused} of {all} jobs were not accepted: {}", self.kind)
    }
}

impl fmt::Debug for SubmitAllError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitAllError")
            .field("kind", &self.kind)
            .field("accepted", &self.accepted.len())
            .field("rest", &self.rest.len())
            .finish()
    }
}

impl std::error::Error for SubmitAllError {}

impl From<SubmitAllError> for Error {
    /// Keeps the text and drops the jobs that were not accepted.
    fn from(error: SubmitAllError) -> Error {
        let text = error.to_string();
        for job in error.rest {
            discard("a refused job", job);
        }
        Error::from(text)
    }
}

/// How many jobs of a batch go in between two looks for somebody to wake.
const RUN: usize = 32;

/// What to do when there is no room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NoRoom {
    GiveUp,
    /// Until this tick, at the latest.
    WaitUntil(Tick),
    /// For as long as it takes; a worker of the delegator does not wait but does the job itself.
    Wait,
    /// The submitter does the job itself.
    RunHere,
    /// For as long as others give way.
    DropOldest,
}

pub(super) fn submit(engine: &Arc<Engine>, job: Job) -> Result<JobHandle, SubmitError> {
    accept(engine, job, NoRoom::Wait)
}

pub(super) fn try_submit(engine: &Arc<Engine>, job: Job) -> Result<JobHandle, SubmitError> {
    accept(engine, job, NoRoom::GiveUp)
}

pub(super) fn submit_timeout(
    engine: &Arc<Engine>,
    job: Job,
    timeout: Duration,
) -> Result<JobHandle, SubmitError> {
    submit_until(engine, job, Tick::now().after(timeout))
}

pub(super) fn submit_deadline(
    engine: &Arc<Engine>,
    job: Job,
    deadline: Instant,
) -> Result<JobHandle, SubmitError> {
    submit_until(engine, job, Tick::from(deadline))
}

pub(super) fn submit_with(
    engine: &Arc<Engine>,
    job: Job,
    overflow: Overflow,
) -> Result<JobHandle, SubmitError> {
    match overflow {
        Overflow::Block => submit(engine, job),
        Overflow::Fail => try_submit(engine, job),
        Overflow::Timeout(timeout) => submit_timeout(engine, job, timeout),
        Overflow::CallerRuns => accept(engine, job, NoRoom::RunHere),
        Overflow::DropOldest => accept(engine, job, NoRoom::DropOldest),
    }
}

fn submit_until(engine: &Arc<Engine>, job: Job, until: Tick) -> Result<JobHandle, SubmitError> {
    let no_room = if until == Tick::NEVER { NoRoom::Wait } else { NoRoom::WaitUntil(until) };
    accept(engine, job, no_room)
}

/// Submits the jobs in order. Stops at the first that does not get in.
pub(super) fn submit_all(
    engine: &Arc<Engine>,
    jobs: impl IntoIterator<Item = Job>,
) -> Result<Vec<JobHandle>, SubmitAllError> {
    accept_all(engine, jobs.into_iter().collect(), NoRoom::Wait)
}

pub(super) fn try_submit_all(
    engine: &Arc<Engine>,
    jobs: impl IntoIterator<Item = Job>,
) -> Result<Vec<JobHandle>, SubmitAllError> {
    accept_all(engine, jobs.into_iter().collect(), NoRoom::GiveUp)
}

fn accept_all(
    engine: &Arc<Engine>,
    mut jobs: VecDeque<Job>,
    no_room: NoRoom,
) -> Result<Vec<JobHandle>, SubmitAllError> {
    let mut accepted = Vec::with_capacity(jobs.len());
    let (mut late, mut kind) = (Vec::new(), SubmitErrorKind::ShutDown);
    while late.is_empty() {
        let run = admit_run(engine, &mut jobs);
        if !run.is_empty() {
            push_run(engine, run, &mut jobs, &mut accepted, &mut late);
        } else if let Some(job) = jobs.pop_front() {
            match accept(engine, job, no_room) {
                Ok(handle) => accepted.push(handle),
                Err(error) => {
                    kind = error.kind();
                    late.push(error.into_job());
                }
            }
        } else {
            return Ok(accepted);
        }
    }
    engine.rejected.fetch_add(jobs.len() as u64, Ordering::Relaxed);
    for job in &jobs {
        tell_submitted(engine, job);
        tell_rejected(engine, job, kind);
    }
    late.extend(jobs);
    Err(SubmitAllError { accepted, rest: late, kind })
}

/// Takes jobs off the front that can go in together: as many as there is room for, up to the first that is special.
fn admit_run(engine: &Engine, jobs: &mut VecDeque<Job>) -> VecDeque<Arc<Task>> {
    let mut run = VecDeque::new();
    let most = engine.queue.room(Level::Normal).min(jobs.len()).min(RUN);
    // Subscribers are told of each job on its own, each may be too late on its own, and without any time each is.
    let no_time = engine.default_timeout == Some(Duration::ZERO);
    let one_by_one = engine.events.is_watched() || engine.pace.is_some() || no_time;
    if most < 2 || engine.queue.phase() != Phase::Open || one_by_one {
        return run;
    }
    let now = Tick::now();
    while run.len() < most {
        let Some(job) = jobs.front() else { break };
        if job.extras.is_some() || job.context.is_done_at(now) {
            break;
        }
        let Some(mut job) = jobs.pop_front() else { break };
        let by_default = limit_by_default(engine, &mut job, || now);
        run.push_back(engine.admit(job, by_default));
    }
    run
}

/// Puts a run into the queue. What finds no room after all goes back to the front of `jobs`; what comes too late for a
/// shutdown is `late`.
fn push_run(
    engine: &Engine,
    mut run: VecDeque<Arc<Task>>,
    jobs: &mut VecDeque<Job>,
    accepted: &mut Vec<JobHandle>,
    late: &mut Vec<Job>,
) {
    let mut handles: Vec<_> = run.iter().map(|task| JobHandle { task: Arc::clone(task) }).collect();
    engine.registry.begin_submissions(run.len() as u64);
    engine.queue.try_push_all(&mut run);
    let mut refused = run.len();
    handles.truncate(handles.len() - refused);
    run.into_iter().rev().filter_map(Task::into_job).for_each(|job| jobs.push_front(job));
    // As in `confirm`.
    let pushed = accepted.len();
    if engine.queue.phase() == Phase::Open {
        accepted.extend(handles);
    } else {
        for handle in handles {
            match handle.task.withdraw() {
                None => accepted.push(handle),
                Some(captures) => late.push(handle.task.rebuild(captures)),
            }
        }
        engine.rejected.fetch_add(late.len() as u64, Ordering::Relaxed);
        refused += late.len();
    }
    engine.registry.accept_submissions((accepted.len() - pushed) as u64);
    if refused > 0 {
        engine.registry.refuse_submissions(refused as u64);
    }
}

/// Gives a job without a deadline the delegator's default timeout. `true` if it did.
fn limit_by_default(engine: &Engine, job: &mut Job, now: impl FnOnce() -> Tick) -> bool {
    let (Some(timeout), Tick::NEVER) = (engine.default_timeout, job.context.deadline_tick()) else {
        return false;
    };
    job.context.limit(now().after(timeout));
    true
}

fn tell_submitted(engine: &Engine, job: &Job) {
    engine.events.emit(|| Event::Submitted { id: job.id, name: job.name.clone() });
}

fn tell_rejected(engine: &Engine, job: &Job, why: SubmitErrorKind) {
    engine.events.emit(|| Event::Rejected { id: job.id, name: job.name.clone(), why });
}

fn accept(engine: &Arc<Engine>, job: Job, no_room: NoRoom) -> Result<JobHandle, SubmitError> {
    accept_with(engine, job, no_room, None)
}

/// Submits the job unless another with this key is there to be joined.
pub(super) fn coalesce(engine: &Arc<Engine>, key: Arc<str>, job: Job) -> Result<Coalesced, SubmitError> {
    let mut share = Share::Join(None);
    let handle = accept_with(engine, job.with_key(key), NoRoom::Wait, Some(&mut share))?;
    match share {
        Share::Join(Some(_)) => Ok(Coalesced::Joined(handle)),
        _ => Ok(Coalesced::Submitted(handle)),
    }
}

/// Submits the job, and then cancels the others with this key.
#[track_caller]
pub(super) fn supersede(engine: &Arc<Engine>, key: Arc<str>, job: Job) -> Result<JobHandle, SubmitError> {
    let mut share = Share::Replace(Vec::new());
    let accepted = accept_with(engine, job.with_key(key), NoRoom::Wait, Some(&mut share));
    if let Share::Replace(older) = share {
        // The last first: what runs would let others start when it is told to stop.
        for task in older.into_iter().rev() {
            let older = JobHandle { task };
            if let Ok(new) = &accepted {
                let by = new.id();
                older.cancel_for(Cancel::here(
                    Origin::Displaced,
                    Some(Arc::new(Displaced::Superseded { by })),
                ));
            }
            discard("a job with a key", older);
        }
    }
    accepted
}

fn accept_with(
    engine: &Arc<Engine>,
    mut job: Job,
    no_room: NoRoom,
    mut share: Option<&mut Share>,
) -> Result<JobHandle, SubmitError> {
    // Before anybody can see the job, so that nothing is told of it before this.
    tell_submitted(engine, &job);
    if engine.queue.phase() != Phase::Open {
        return Err(refuse(engine, job, SubmitError::ShutDown));
    }
    let when = job.extras.as_ref().and_then(|extras| extras.when);
    let due = when.map(|when| match when {
        Start::After(delay) => Tick::now().after(delay),
        Start::At(tick) => tick,
        Start::Wall(time) => Tick::now().after(Duration::from_nanos(time.saturating_sub(clock::wall_now()))),
    });
    let mut looked = None;
    let by_default = limit_by_default(engine, &mut job, || {
        let now = Tick::now();
        looked = Some(now);
        due.unwrap_or(now).max(now)
    });
    let end = match looked {
        Some(now) if !job.context.is_done_at(now) => None,
        _ => job.context.end(),
    };
    let level = job.level();
    let task = engine.admit(job, by_default);
    if let Some(end) = end {
        return Ok(end_at_once(engine, task, end));
    }
    let handle = JobHandle { task: Arc::clone(&task) };
    if level.is_keyed() {
        task.hold();
        if let Some(other) = find_other(engine, &task, share.as_deref_mut()) {
            return Ok(join(engine, task, handle, other));
        }
    }
    if let Some(due) = due.filter(|due| *due > Tick::now()) {
        let wall = match when {
            Some(Start::Wall(time)) => Some(time),
            _ => None,
        };
        if engine.schedule(&task, due, wall) {
            if let Some(share @ Share::Replace(_)) = share {
                engine.look_at_key(&task, share);
            }
            return Ok(handle);
        }
        return Err(give_back(engine, task, handle, SubmitError::ShutDown));
    }
    if engine.pace.as_ref().is_some_and(|pace| is_hopeless(engine, pace, &task, level)) {
        return Err(give_back(engine, task, handle, SubmitError::WouldMissDeadline));
    }
    match push(engine, task, level, share.as_deref_mut(), false) {
        Ok(()) => confirm(engine, handle),
        Err(task) => make_room(engine, task, level, handle, no_room, share),
    }
}

/// A job with the same key that this one is to join, if there is one already. Those whose time is over are ended first.
fn find_other(engine: &Engine, task: &Task, share: Option<&mut Share>) -> Option<Arc<Task>> {
    let Some(share @ Share::Join(_)) = share else { return None };
    loop {
        engine.look_at_key(task, share);
        if !found_too_late(Some(share)) {
            return found(Some(share));
        }
    }
}

/// Whether the job that would be joined has ended, or does now that somebody looks: then nobody joins it.
fn found_too_late(share: Option<&mut Share>) -> bool {
    let Some(Share::Join(found)) = share else { return false };
    let Some(late) = found.take_if(|other| other.look().is_finished()) else { return false };
    discard("a finished job", late);
    true
}

/// The job that a push has found instead of room.
fn found(share: Option<&Share>) -> Option<Arc<Task>> {
    match share {
        Some(Share::Join(Some(other))) => Some(Arc::clone(other)),
        _ => None,
    }
}

/// Lets go of a job that another does.
fn join(engine: &Engine, task: Arc<Task>, handle: JobHandle, other: Arc<Task>) -> JobHandle {
    let (id, name, to) = (task.id, task.name.clone(), other.id);
    engine.events.emit(|| Event::Joined { id, name, to });
    drop(handle);
    discard(format_args!("what job {id} captured"), task);
    JobHandle { task: other }
}

/// Whether the jobs that go before it will take until after its deadline.
#[cold]
fn is_hopeless(engine: &Engine, pace: &Pace, task: &Task, level: Level) -> bool {
    if task.deadline == Tick::NEVER {
        return false;
    }
    let priorities = [Priority::Low, Priority::Normal, Priority::High].into_iter();
    let before = priorities.filter(|priority| *priority >= level.priority());
    let ahead = before.map(|priority| engine.queue.len_at(priority)).sum();
    Tick::now().after(pace.time_for(ahead)) > task.deadline
}

/// Accepts a job that a worker made which has nothing else to do: it runs it here, unless the job has options that say when
/// and where. `true` if it has been started. `known` is called before the job can be finished, or at the latest then.
pub(crate) fn submit_here(
    engine: &Arc<Engine>,
    mut job: Job,
    known: impl FnOnce(&JobHandle),
) -> Result<bool, SubmitError> {
    if job.extras.is_some() || job.context.is_done() {
        let earlier = job.extras.as_ref().map_or(0, |extras| extras.tries.earlier);
        let handle = accept(engine, job, NoRoom::Wait)?;
        known(&handle);
        // Where it found no room it has been run.
        return Ok(handle.task.attempts() > earlier);
    }
    tell_submitted(engine, &job);
    if engine.queue.phase() != Phase::Open {
        return Err(refuse(engine, job, SubmitError::ShutDown));
    }
    let by_default = limit_by_default(engine, &mut job, Tick::now);
    let handle = JobHandle { task: engine.admit(job, by_default) };
    engine.registry.begin_submission();
    engine.registry.accept_submission();
    known(&handle);
    worker::run_inline(&handle.task);
    // Without any time it has ended instead.
    Ok(handle.task.started().is_some())
}

/// Counts the task in and puts it in the queue, or gives it back. `force`: see [`Engine::push_at`].
fn push(
    engine: &Engine,
    mut task: Arc<Task>,
    level: Level,
    mut share: Option<&mut Share>,
    force: bool,
) -> Result<(), Arc<Task>> {
    loop {
        engine.registry.begin_submission();
        let Err(back) = engine.push_at(level, task, share.as_deref_mut(), force) else { return Ok(()) };
        engine.registry.refuse_submission();
        if !found_too_late(share.as_deref_mut()) {
            return Err(back);
        }
        task = back;
    }
}

/// What is left to do once the job is in the queue: to make sure that somebody is there to take it out.
///
/// A shutdown first changes the phase and then looks into the queue; this looks at the phase after the push. So a job that
/// got in too late is seen by one of them, and whoever takes it out of the task decides.
fn confirm(engine: &Engine, handle: JobHandle) -> Result<JobHandle, SubmitError> {
    let captures = if engine.queue.phase() == Phase::Open { None } else { handle.task.withdraw() };
    match captures {
        None => {
            engine.registry.accept_submission();
            Ok(handle)
        }
        Some(captures) => {
            engine.registry.refuse_submission();
            let job = handle.task.rebuild(captures);
            Err(refuse(engine, job, SubmitError::ShutDown))
        }
    }
}

/// The queue is full: waits, runs the job here, or gives up.
#[cold]
fn make_room(
    engine: &Arc<Engine>,
    task: Arc<Task>,
    level: Level,
    handle: JobHandle,
    no_room: NoRoom,
    mut share: Option<&mut Share>,
) -> Result<JobHandle, SubmitError> {
    if let Some(other) = found(share.as_deref()) {
        return Ok(join(engine, task, handle, other));
    }
    let mut task = task;
    if let Some(end) = task.context().end() {
        drop(handle);
        return Ok(end_at_once(engine, task, end));
    }
    if level != Level::Normal && engine.end_late() {
        match push(engine, task, level, share.as_deref_mut(), false) {
            Ok(()) => return confirm(engine, handle),
            Err(back) => task = back,
        }
        if let Some(other) = found(share.as_deref()) {
            return Ok(join(engine, task, handle, other));
        }
    }
    let until = match no_room {
        NoRoom::GiveUp => return Err(give_back(engine, task, handle, SubmitError::Full)),
        NoRoom::DropOldest => return drop_oldest(engine, task, level, handle),
        // It may have to wait for its turn: beyond the capacity, since a worker must not wait for room.
        NoRoom::Wait | NoRoom::RunHere
            if level.is_keyed() && engine.queue.holds_any() && worker::is_on(engine) =>
        {
            return match push(engine, task, level, share.as_deref_mut(), true) {
                Ok(()) => confirm(engine, handle),
                Err(task) => match found(share.as_deref()) {
                    Some(other) => Ok(join(engine, task, handle, other)),
                    None => Err(give_back(engine, task, handle, SubmitError::Full)),
                },
            };
        }
        NoRoom::Wait | NoRoom::RunHere
            if worker::is_on(engine) && (!level.is_keyed() || worker::get_seat(engine, &task)) =>
        {
            if let Some(share @ Share::Replace(_)) = share {
                engine.look_at_key(&task, share);
                share.leave_out(&task);
            }
            engine.registry.begin_submission();
            engine.registry.accept_submission();
            drop(task);
            worker::run_inline(&handle.task);
            return Ok(handle);
        }
        NoRoom::RunHere if !level.is_keyed() || engine.take_seat(&task, &[]) => {
            return run_here(engine, task, level, handle);
        }
        NoRoom::Wait | NoRoom::RunHere => Tick::NEVER,
        NoRoom::WaitUntil(until) => until,
    };
    for _ in 0..SPINS {
        if !engine.queue.is_full(level) {
            match push(engine, task, level, share.as_deref_mut(), false) {
                Ok(()) => return confirm(engine, handle),
                Err(back) => task = back,
            }
            if let Some(other) = found(share.as_deref()) {
                return Ok(join(engine, task, handle, other));
            }
        }
        spin_loop();
    }
    wait_for_room(engine, task, level, handle, until, share)
}

/// Has jobs give way until this one has a place.
fn drop_oldest(
    engine: &Arc<Engine>,
    mut task: Arc<Task>,
    level: Level,
    handle: JobHandle,
) -> Result<JobHandle, SubmitError> {
    loop {
        if engine.queue.phase() != Phase::Open {
            return Err(give_back(engine, task, handle, SubmitError::ShutDown));
        }
        let oldest = engine.take_oldest(level);
        let gives_way = oldest.is_some();
        match oldest {
            Some(oldest) => give_way(engine, oldest, handle.id()),
            None if engine.queue.holds_any() => {}
            None => return Err(give_back(engine, task, handle, SubmitError::Full)),
        }
        // One is enough, also where more are due than there are places.
        match push(engine, task, level, None, gives_way) {
            Ok(()) => return confirm(engine, handle),
            // Somebody else has taken the place.
            Err(back) => task = back,
        }
    }
}

/// Ends a job that was taken out of the queue.
fn give_way(engine: &Engine, task: Arc<Task>, by: JobId) {
    // One that has ended, or whose context is done, does not give way.
    let state = task.look();
    if state == JobState::Scheduled {
        // The place that it had before an attempt that has failed.
        return discard("a scheduled job", task);
    }
    if let Some(captures) = task.withdraw() {
        if let Some(tick) = captures.tick() {
            // No job: it is put back, and loses its turn.
            tick.series.set(engine, Tick::now(), tick.owed);
            return discard("a periodic job", captures);
        }
        engine.dropped.fetch_add(1, Ordering::Relaxed);
        let cancel = Cancel::at(Origin::Displaced, Some(Arc::new(Displaced::Dropped { by })), None);
        task.end_claimed(captures, End::Cancel(Cancelled::now(cancel)));
    }
    discard("a finished job", task);
}

/// Runs the job on this thread, which is no worker.
fn run_here(
    engine: &Arc<Engine>,
    task: Arc<Task>,
    level: Level,
    handle: JobHandle,
) -> Result<JobHandle, SubmitError> {
    let name = std::thread::current().name().unwrap_or("a caller").to_owned();
    let slot = Arc::new(Slot::new(name, &engine.scope, true));
    engine.callers.enter(&slot);
    if engine.queue.phase() != Phase::Open {
        engine.callers.leave(&slot);
        if level.is_keyed() {
            engine.leave_key(task.id, false);
        }
        return Err(give_back(engine, task, handle, SubmitError::ShutDown));
    }
    engine.registry.begin_submission();
    engine.registry.accept_submission();
    drop(task);
    worker::run_as_caller(engine, Arc::clone(&slot), &handle.task);
    engine.callers.leave(&slot);
    Ok(handle)
}

/// What comes instead of room.
enum Instead {
    /// The end of the job's context.
    End(End),
    /// A job to be joined.
    Other(Arc<Task>),
}

fn wait_for_room(
    engine: &Arc<Engine>,
    mut task: Arc<Task>,
    level: Level,
    handle: JobHandle,
    until: Tick,
    mut share: Option<&mut Share>,
) -> Result<JobHandle, SubmitError> {
    let queue = &engine.queue;
    let context = task.context();
    let listening = context.listen(Action::Wake(sync::current()));
    let me = Parker::of_this_thread();
    let mut again = false;
    let result = loop {
        queue.line_up(level, &me, again);
        again = true;
        // For a moment it waits to be called when there is room for several; then for any place.
        let mut patience = Tick::now().after(PATIENCE);
        let given_up = loop {
            // First of all: the room that a shutdown makes, when it takes the unstarted jobs out, is for nobody.
            if queue.phase() != Phase::Open {
                break Some(Err(SubmitError::ShutDown as fn(Job) -> SubmitError));
            }
            match push(engine, task, level, share.as_deref_mut(), false) {
                Ok(()) => {
                    queue.step_out(level, &me);
                    drop(listening);
                    discard("the context of a submission", context);
                    return confirm(engine, handle);
                }
                Err(back) => task = back,
            }
            if let Some(other) = found(share.as_deref()) {
                break Some(Ok(Instead::Other(other)));
            }
            if let Some(end) = context.end() {
                break Some(Ok(Instead::End(end)));
            }
            let now = Tick::now();
            if until != Tick::NEVER && until <= now {
                break Some(Err(SubmitError::Timeout as fn(Job) -> SubmitError));
            }
            if me.is_notified() {
                break None;
            }
            if patience != Tick::NEVER && patience <= now {
                queue.hurry(level);
                patience = Tick::NEVER;
                continue;
            }
            engine.park_until(until.min(context.deadline_tick()).min(patience));
        };
        queue.step_out(level, &me);
        match given_up {
            None => {}
            Some(Ok(Instead::Other(other))) => break Ok(join(engine, task, handle, other)),
            Some(Ok(Instead::End(end))) => {
                drop(handle);
                break Ok(end_at_once(engine, task, end));
            }
            Some(Err(why)) => break Err(give_back(engine, task, handle, why)),
        }
    };
    drop(listening);
    discard("the context of a submission", context);
    result
}

/// Accepts a job whose context is done: it is finished before anybody could start it.
fn end_at_once(engine: &Engine, task: Arc<Task>, end: End) -> JobHandle {
    engine.registry.begin_submission();
    engine.registry.accept_submission();
    if let Some(captures) = task.withdraw() {
        task.end_claimed(captures, end);
    }
    JobHandle { task }
}

/// Undoes `admit`.
fn give_back(
    engine: &Engine,
    task: Arc<Task>,
    handle: JobHandle,
    why: fn(Job) -> SubmitError,
) -> SubmitError {
    drop(handle);
    match task.into_job() {
        Some(job) => refuse(engine, job, why),
        None => unreachable!("nobody else has seen the task"),
    }
}

fn refuse(engine: &Engine, job: Job, why: fn(Job) -> SubmitError) -> SubmitError {
    engine.rejected.fetch_add(1, Ordering::Relaxed);
    let error = why(job);
    let (kind, job) = error.parts();
    tell_rejected(engine, job, kind);
    error
}
