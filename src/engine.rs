//! What a delegator, its submitters, its workers and its jobs share.

use std::cell::RefCell;

use crate::agenda::{Agenda, until_look};
use crate::alarm::Alarm;
use crate::callers::Callers;
use crate::clock::{self, Tick};
use crate::context::{End, Scope};
use crate::directive::Directive;
use crate::driver;
use crate::events::{Event, Events};
use crate::extras::Place;
use crate::id::JobId;
use crate::job::Job;
use crate::keys::{Keys, Share, Way};
use crate::latency::Recorders;
use crate::notes::{Noted, Notes};
use crate::pace::Pace;
use crate::panics::discard;
use crate::priority::Level;
use crate::provenance::{Cancel, Cancelled, Origin};
use crate::queue::{Phase, Queue};
use crate::record::JobRecord;
use crate::registry::{Evicted, Registry};
use crate::retry::{Retries, RetryBudget};
use crate::stuck;
use crate::sync::channel::Sender;
use crate::sync::{
    Arc, AtomicBool, AtomicU64, Mutex, MutexGuard, OnceLock, Ordering, Padded, Weak, thread_local,
};
use crate::task::{Captures, Task};

/// How many cells travel from a worker to a submitter at a time.
pub(crate) const BATCH: usize = 32;

/// How many jobs are released under one lock of the agenda.
const RELEASED: usize = 256;

pub(crate) struct Engine {
    pub(crate) queue: Queue<Arc<Task>>,
    pub(crate) registry: Registry,
    /// The host of every job's scope. Cancelling it cancels whatever runs.
    pub(crate) scope: Arc<Scope>,
    pub(crate) slots: Box<[Arc<Slot>]>,
    /// How many workers there are at a time, as far as jobs that are stuck leave them.
    pub(crate) workers: usize,
    pub(crate) callers: Callers,
    pub(crate) admin: Sender<Directive>,
    /// Wakes the delegator thread, which then calls [`look_around`](Engine::look_around).
    pub(crate) alarm: Arc<Alarm>,
    pub(crate) agenda: Padded<Mutex<Agenda>>,
    pub(crate) rejected: Padded<AtomicU64>,
    /// Jobs that gave their places in the queue to others.
    pub(crate) dropped: AtomicU64,
    /// Who waits for whose key, once a job has had one.
    keys: OnceLock<Box<Keys>>,
    key_limit: usize,
    pub(crate) events: Events,
    pub(crate) latencies: Recorders,
    /// If jobs that would start too late are to be refused.
    pub(crate) pace: Option<Pace>,
    pub(crate) retries: Retries,
    pub(crate) default_timeout: Option<std::time::Duration>,
    /// Jobs that a shutdown hands back; `None` when nobody will take them any more.
    unstarted: Mutex<Option<Vec<Job>>>,
    cells: Cells,
    /// Itself, for the jobs to refer to.
    weak: Weak<Engine>,
}

/// What a delegator does for all of its jobs, as its builder says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Settings {
    pub(crate) default_timeout: Option<std::time::Duration>,
    /// For how many names by themselves; `None` for no times at all.
    pub(crate) latencies: Option<usize>,
    pub(crate) refuse_hopeless: bool,
    /// How many jobs with one key may run at a time.
    pub(crate) key_limit: usize,
    pub(crate) retry_budget: RetryBudget,
    pub(crate) stuck_after: std::time::Duration,
}

/// A worker as others see it.
pub(crate) struct Slot {
    pub(crate) thread_name: String,
    at_work: Padded<Mutex<AtWork>>,
}

pub(crate) struct AtWork {
    /// The scope of jobs that have none of their own.
    pub(crate) scope: Arc<Scope>,
    /// The job that the worker took from the queue, and on top of it those that it runs inline meanwhile.
    pub(crate) stack: Vec<Running>,
    /// Whether there is a worker.
    pub(crate) live: bool,
    /// It is to leave when it has none of these jobs any more: another has its place.
    pub(crate) replaced: bool,
}

/// A job on its worker.
pub(crate) struct Running {
    pub(crate) task: Arc<Task>,
    /// Where it is not that of the slot.
    pub(crate) scope: Option<Arc<Scope>>,
    /// It was reported as stuck.
    pub(crate) stuck: bool,
}

impl Slot {
    pub(crate) fn new(thread_name: String, host: &Arc<Scope>, live: bool) -> Slot {
        let scope = Scope::new(None, Some(Arc::clone(host)));
        let stack = Vec::with_capacity(if live { 4 } else { 0 });
        let at_work = AtWork { scope, stack, live, replaced: false };
        Slot { thread_name, at_work: Padded(Mutex::new(at_work)) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, AtWork> {
        self.at_work.lock()
    }

    pub(crate) fn depth(&self) -> usize {
        self.lock().stack.len()
    }

    /// All jobs that have not returned, from the one that the worker took from the queue to the one it is in.
    pub(crate) fn jobs(&self) -> Vec<JobId> {
        self.lock().stack.iter().map(|running| running.task.id).collect()
    }

    fn scope_of(&self, task: &Arc<Task>) -> Option<Arc<Scope>> {
        let at_work = self.lock();
        Some(Arc::clone(at_work.scope_of(at_work.find(task)?)))
    }
}

impl AtWork {
    fn find(&self, task: &Arc<Task>) -> Option<&Running> {
        self.stack.iter().rev().find(|running| Arc::ptr_eq(&running.task, task))
    }

    pub(crate) fn scope_of<'a>(&'a self, running: &'a Running) -> &'a Arc<Scope> {
        running.scope.as_ref().unwrap_or(&self.scope)
    }
}

impl Engine {
    /// `cells` is how many cells of evicted records may wait to be filled again; what does not fit is freed. `workers`
    /// is how many of the slots have a worker from the beginning.
    pub(crate) fn new(
        queue: Queue<Arc<Task>>,
        cells: usize,
        registry: Registry,
        thread_names: impl Iterator<Item = String>,
        workers: usize,
        admin: Sender<Directive>,
        settings: Settings,
    ) -> Arc<Engine> {
        let Settings { default_timeout, latencies, refuse_hopeless, key_limit, retry_budget, stuck_after } =
            settings;
        let scope = Scope::new(None, None);
        let slots: Box<[_]> = thread_names
            .enumerate()
            .map(|(index, name)| Arc::new(Slot::new(name, &scope, index < workers)))
            .collect();
        Arc::new_cyclic(|weak: &Weak<Engine>| {
            scope.belongs_to(weak.clone());
            Engine {
                queue,
                registry,
                scope,
                pace: refuse_hopeless.then(|| Pace::new(slots.len(), workers)),
                slots,
                workers,
                callers: Callers::default(),
                alarm: Alarm::new(admin.clone(), stuck_after),
                admin,
                agenda: Padded::default(),
                rejected: Padded::default(),
                dropped: AtomicU64::new(0),
                keys: OnceLock::new(),
                key_limit,
                events: Events::default(),
                latencies: Recorders::new(latencies),
                retries: Retries::new(retry_budget, Tick::now()),
                default_timeout,
                unstarted: Mutex::new(Some(Vec::new())),
                cells: Cells::new(cells),
                weak: weak.clone(),
            }
        })
    }

    /// Gives a job that was taken out of a stopped delegator back to whoever shuts it down, from there. One that comes after
    /// the report ends here.
    pub(crate) fn hand_back(&self, task: &Arc<Task>, captures: Captures, caller: Caller) {
        if let Some(tick) = captures.tick() {
            tick.series.stop();
            return discard("a periodic job", captures);
        }
        let end =
            Scope::end(&self.scope).unwrap_or_else(|| End::Cancel(Cancelled::now(ShutDown::cancel(caller))));
        let mut job = Some(task.rebuild(captures));
        if let Some(unstarted) = &mut *self.unstarted.lock() {
            unstarted.extend(job.take());
        }
        discard(format_args!("what job {} captured", task.id), job);
        task.finish_unstarted(end);
    }

    /// A cell for this job: that of an evicted record if there is one that nobody refers to, a new one otherwise.
    pub(crate) fn admit(&self, job: Job, by_default: bool) -> Arc<Task> {
        if let Some(mut cell) = self.cells.take() {
            if let Some(task) = Arc::get_mut(&mut cell) {
                task.refill(job, by_default, &self.weak);
                return cell;
            }
        }
        Arc::new(Task::new(job, by_default, Weak::clone(&self.weak)))
    }

    /// Files a job whose outcome is settled, and tells the subscribers.
    pub(crate) fn finish(&self, task: Arc<Task>) -> Evicted {
        if !self.events.is_watched() {
            return self.registry.file(task);
        }
        self.events.finishing();
        let evicted = self.registry.file(Arc::clone(&task));
        self.events.finished(JobRecord::of(task));
        evicted
    }

    /// Sends the cell of a plain evicted record on to be filled again, and drops the others. Called without any lock.
    pub(crate) fn recycle(&self, mut evicted: Evicted, batch: &RefCell<Vec<Arc<Task>>>) {
        if let Some(cell) = evicted.plain.take() {
            self.cells.put(cell, batch);
        }
        evicted.discard();
    }

    /// What the delegator thread does when the alarm goes off; sets it again for what is still to come. Gives
    /// each worker with a job that has become stuck, and what the log is to say.
    pub(crate) fn look_around(&self, now: Tick) -> Vec<(usize, String)> {
        let (stuck, next) = stuck::look(self, now);
        self.alarm.set(next.min(self.release_due(now)));
        stuck
    }

    /// Hands what is due to the workers, and gives when there is more to do.
    fn release_due(&self, now: Tick) -> Tick {
        loop {
            let mut listened = Vec::new();
            // So that none is dropped under the lock.
            let mut pushed = Vec::new();
            let mut agenda = self.agenda.lock();
            // Under the lock: who has closed the queue, and then takes this lock, finds nothing pushed afterwards.
            if self.queue.phase() != Phase::Open {
                return Tick::NEVER;
            }
            let wall_now = agenda.wall_now();
            let mut released = 0;
            while released < RELEASED {
                let Some(task) = agenda.pop_due(now, wall_now) else { break };
                let (counts, listening) = task.release();
                if counts {
                    self.registry.begin_submission();
                }
                listened.extend(listening);
                // One that has ended goes the same way: a worker drops what is left of it.
                pushed.extend(self.push_due(task));
                released += 1;
            }
            while released < RELEASED {
                let Some(tick) = agenda.pop_due_tick(now) else { break };
                let task = Task::new(Job::of_tick(tick), false, Weak::clone(&self.weak));
                pushed.extend(self.push_due(Arc::new(task)));
                released += 1;
            }
            let next = agenda.next_due(now, wall_now);
            drop(agenda);
            drop(listened);
            pushed.into_iter().for_each(|task| discard("a job with a key", task));
            // So that others get at the agenda in between.
            if released < RELEASED {
                return next;
            }
        }
    }

    /// Puts a job in the agenda; `false` if nothing is scheduled any more.
    pub(crate) fn schedule(&self, task: &Arc<Task>, due: Tick, wall: Option<u64>) -> bool {
        let mut agenda = self.agenda.lock();
        if agenda.is_closed() {
            return false;
        }
        // At its deadline it goes to the workers as well, to be ended.
        let due = if wall.is_some() { task.deadline } else { due.min(task.deadline) };
        let place = agenda.place(due, wall);
        task.schedule(place);
        agenda.insert(place, Arc::clone(task));
        self.registry.accept_submission();
        drop(agenda);
        task.listen_while_scheduled();
        let look = wall.map(|wall| Tick::now().after(until_look(wall, clock::wall_now())));
        self.alarm.set(look.unwrap_or(Tick::NEVER).min(due));
        true
    }

    /// Puts a job that a worker has run back in the agenda, unless nothing is scheduled any more. Called
    /// under the lock of the worker's slot: who looks for it finds it running or waiting.
    pub(crate) fn schedule_again(
        &self,
        task: &Arc<Task>,
        captures: Captures,
        due: Tick,
    ) -> Result<(), Captures> {
        let mut agenda = self.agenda.lock();
        if agenda.is_closed() {
            return Err(captures);
        }
        let place = agenda.place(due, None);
        task.put_back(captures, place);
        agenda.insert(place, Arc::clone(task));
        Ok(())
    }

    /// What is left to do once a job is back in the agenda.
    pub(crate) fn confirm_again(&self, task: &Arc<Task>, due: Tick) {
        // It is begun once more when it is due.
        self.registry.refuse_submission();
        task.listen_while_it_waits();
        self.alarm.set(due);
    }

    /// What is left in the queue for workers that leave.
    pub(crate) fn take_left(&self) -> Option<Arc<Task>> {
        if self.queue.phase() == Phase::Stopped {
            return None;
        }
        // What has become due is in the queue by now.
        let _agenda = self.agenda.lock();
        self.queue.try_pop()
    }

    /// Puts a task that is due in the queue, or holds it back for its key; also where there is no room. Gives a task with a
    /// key back, to be dropped.
    fn push_due(&self, task: Arc<Task>) -> Option<Arc<Task>> {
        let level = task.level();
        if level.is_keyed() {
            let _ = self.push_keyed(level, Arc::clone(&task), None, true);
            return Some(task);
        }
        self.queue.push_due(level, task);
        None
    }

    /// Puts a task in the queue, at its level, or holds it back for its key. `force`: also where there is no room,
    /// unless it is of the level of the channel.
    pub(crate) fn push_at(
        &self,
        level: Level,
        task: Arc<Task>,
        share: Option<&mut Share>,
        force: bool,
    ) -> Result<(), Arc<Task>> {
        match level {
            Level::Normal => self.queue.try_push(task),
            Level::Low | Level::High => self.queue.push_at(level, task, force),
            _ => self.push_keyed(level, task, share, force),
        }
    }

    #[cold]
    fn push_keyed(
        &self,
        level: Level,
        task: Arc<Task>,
        share: Option<&mut Share>,
        force: bool,
    ) -> Result<(), Arc<Task>> {
        let keys = self.keys.get_or_init(Box::default);
        keys.enter(&self.queue, task, level, share, self.key_limit, force)
    }

    /// Has a job with a key start without having been in the queue, if the key has room or is that of one of these jobs,
    /// which wait for it.
    pub(crate) fn take_seat(&self, task: &Arc<Task>, inside: &[JobId]) -> bool {
        self.keys.get_or_init(Box::default).take_seat(task, self.key_limit, inside)
    }

    /// A job that has the key of this one, and waits for a worker.
    pub(crate) fn queued_holder(&self, task: &Task) -> Option<Arc<Task>> {
        self.keys.get()?.queued_holder(task)
    }

    /// Whether this job has what it needs of its key to start.
    #[cold]
    pub(crate) fn has_seat(&self, id: JobId) -> bool {
        self.keys.get().is_some_and(|keys| keys.has_seat(id))
    }

    /// A job with a key is over, and others with that key may start. What it was is told, or a second call, changes nothing.
    #[cold]
    pub(crate) fn leave_key(&self, id: JobId, leftovers: bool) {
        if let Some(keys) = self.keys.get() {
            keys.leave(&self.queue, id, leftovers);
            self.queue.key_is_free();
        }
    }

    pub(crate) fn has_keys(&self) -> bool {
        self.keys.get().is_some()
    }

    /// What others with the key of this job a submission of its would find.
    pub(crate) fn look_at_key(&self, task: &Task, share: &mut Share) {
        if let (Some(keys), Some((key, _))) = (self.keys.get(), task.key()) {
            keys.look(&key, share);
        }
    }

    /// How a worker in these jobs that waits for one that is held back gets on.
    pub(crate) fn way_to(&self, task: &Arc<Task>, inside: &[JobId]) -> Way {
        self.keys.get().map_or(Way::Wait, |keys| keys.way_to(&self.queue, task, inside))
    }

    /// A job that is held back by one of these, which wait for it.
    pub(crate) fn held_by(&self, inside: &[JobId]) -> Option<Arc<Task>> {
        self.keys.get()?.held_by(&self.queue, inside)
    }

    /// The job that has waited longest at this level. Its place is free, or will be when it has ended.
    pub(crate) fn take_oldest(&self, level: Level) -> Option<Arc<Task>> {
        let may_give_way = level != Level::Normal && self.queue.holds_any();
        let held = || self.keys.get().filter(|_| may_give_way)?.oldest_held(level);
        self.queue.take_oldest(level).or_else(held)
    }

    /// Ends the jobs that wait for their keys past their deadlines. `true` if there were some.
    pub(crate) fn end_late(&self) -> bool {
        let late = self.keys.get().map(|keys| keys.late(Tick::now())).unwrap_or_default();
        let any = !late.is_empty();
        for task in late {
            task.look();
            discard("a finished job", task);
        }
        any
    }

    /// Takes out the jobs that wait for their keys.
    pub(crate) fn take_held(&self) -> Vec<Arc<Task>> {
        self.keys.get().map(|keys| keys.take_held(&self.queue)).unwrap_or_default()
    }

    /// How many keys have jobs, and how many jobs have keys: queued or running.
    pub(crate) fn keys_in_use(&self) -> (usize, usize) {
        self.keys.get().map_or((0, 0), |keys| keys.len())
    }

    /// Hands back what is scheduled. The queue is closed.
    pub(crate) fn close_agenda(&self, caller: Caller) {
        let (tasks, ticks) = self.agenda.lock().close();
        for tick in ticks.into_values() {
            tick.series.stop();
            discard("a periodic job", tick);
        }
        for task in tasks {
            // A job whose context is done ends for that reason.
            task.look();
            if let Some(captures) = task.withdraw() {
                self.hand_back(&task, captures, caller);
            }
            discard("a finished job", task);
        }
    }

    /// Waits for something that its own workers or others do; may return early.
    pub(crate) fn park_until(&self, until: Tick) {
        driver::park_until(until, Some(std::ptr::from_ref(self).cast()));
    }

    /// Where jobs run: the workers, and, with an index past theirs, the callers.
    pub(crate) fn all_slots(&self) -> Vec<(usize, Arc<Slot>)> {
        let callers = self.callers.slots().into_iter().map(|slot| (self.slots.len(), slot));
        self.slots.iter().cloned().enumerate().chain(callers).collect()
    }

    /// The jobs that workers and callers are in, inline ones included.
    pub(crate) fn running(&self) -> usize {
        self.all_slots().iter().map(|(_, slot)| slot.depth()).sum()
    }

    /// Counts a job whose outcome is settled, keeps its record, and publishes it.
    pub(crate) fn file(&self, task: Arc<Task>) {
        if let Some(outcome) = task.outcome() {
            self.latencies.record_elsewhere(&task.name, task.created, None, outcome.completed);
        }
        self.finish(task).discard();
    }

    /// Has what is handed back from now on end at once, and gives what there is.
    pub(crate) fn take_unstarted(&self) -> Vec<Job> {
        self.unstarted.lock().take().unwrap_or_default()
    }

    /// Takes the place of a job that has ended out of the agenda.
    pub(crate) fn forget(&self, place: Place) {
        // In this order: it is idle only when the job is filed.
        self.registry.begin_submission();
        let entry = self.agenda.lock().remove(place);
        drop(entry);
    }

    /// Counts a scheduled job that has ended, but stays in the agenda for the rest of its time.
    pub(crate) fn forget_later(&self) {
        self.registry.begin_submission();
    }

    /// Gives the scope of a job that is on a worker the notes that it has not got yet.
    pub(crate) fn begin_notes(&self, scope: &Arc<Scope>) {
        for (worker, slot) in self.all_slots() {
            let at_work = slot.lock();
            let found = at_work.stack.iter().find(|running| Arc::ptr_eq(at_work.scope_of(running), scope));
            if let Some(running) = found {
                let watched = self.events.watched();
                return scope.notes_or(|| Notes::new(&running.task, worker, self.weak.clone(), watched));
            }
        }
    }

    /// What the operation of a running job has said.
    pub(crate) fn noted(&self, task: &Arc<Task>) -> Option<Noted> {
        let noted = |slot: &Arc<Slot>| {
            let at_work = slot.lock();
            at_work.scope_of(at_work.find(task)?).notes().map(|notes| notes.read())
        };
        match task.worker() {
            Some(worker) => self.slots.get(worker).and_then(noted),
            None if task.started().is_some() => self.callers.slots().iter().find_map(noted),
            None => None,
        }
    }

    /// Tells subscribers. What is called under a lock: the event has no values of the user's.
    pub(crate) fn tell(&self, event: Event) {
        self.events.emit(|| event);
    }

    /// Cancels the context of a running job. `false` if its operation has returned.
    pub(crate) fn cancel_running(&self, task: &Arc<Task>, cancel: Arc<Cancel>) -> bool {
        let scope = match task.worker() {
            Some(worker) => self.slots.get(worker).and_then(|slot| slot.scope_of(task)),
            None => self.callers.slots().iter().find_map(|slot| slot.scope_of(task)),
        };
        match scope {
            Some(scope) => {
                let scope = Scope::of_all_attempts(scope);
                scope.cancel(cancel);
                discard("the context of a finished job", scope);
                self.alarm.set_for_end(Tick::now());
                true
            }
            None => {
                discard("the cause of a cancel", cancel);
                false
            }
        }
    }

    /// Those of them that were reported as stuck.
    pub(crate) fn stuck(&self) -> usize {
        let slots = self.all_slots().into_iter();
        slots.map(|(_, slot)| slot.lock().stack.iter().filter(|running| running.stuck).count()).sum()
    }
}

/// Why the jobs of a shut-down delegator are cancelled.
#[derive(Debug)]
pub(crate) struct ShutDown;

/// The call that shuts a delegator down; `None` for its drop.
pub(crate) type Caller = Option<&'static std::panic::Location<'static>>;

impl ShutDown {
    pub(crate) fn cancel(caller: Caller) -> Arc<Cancel> {
        Cancel::at(Origin::Shutdown, Some(Arc::new(ShutDown)), caller)
    }
}

impl std::fmt::Display for ShutDown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the delegator is shut down")
    }
}

impl std::error::Error for ShutDown {}

/// Cells of evicted records on their way back to submitters.
///
/// Allocating on one thread and freeing on another is what allocators are slowest at. So cells go round: worker, batch,
/// submitter, job, record, worker. The worker does not touch them; the submitter, which dropped the handle, still has the
/// line with the counts in its cache.
struct Cells {
    /// At most `max` of them.
    batches: Mutex<Vec<Vec<Arc<Task>>>>,
    max: usize,
    /// Whether there are none, as far as can be told without the lock.
    empty: AtomicBool,
}

thread_local! {
    /// The cells that this thread may fill next. They fit every delegator.
    static STASH: RefCell<Vec<Arc<Task>>> = const { RefCell::new(Vec::new()) };
}

impl Cells {
    fn new(cells: usize) -> Cells {
        Cells { batches: Mutex::default(), max: cells.div_ceil(BATCH), empty: AtomicBool::new(true) }
    }

    fn take(&self) -> Option<Arc<Task>> {
        let from_stash = STASH.try_with(|stash| {
            let mut stash = stash.try_borrow_mut().ok()?;
            if stash.is_empty() && !self.empty.load(Ordering::Relaxed) {
                let mut batches = self.batches.lock();
                let batch = batches.pop();
                self.empty.store(batches.is_empty(), Ordering::Relaxed);
                drop(batches);
                *stash = batch?;
            }
            stash.pop()
        });
        from_stash.ok().flatten()
    }

    fn put(&self, cell: Arc<Task>, batch: &RefCell<Vec<Arc<Task>>>) {
        let Ok(mut batch) = batch.try_borrow_mut() else { return };
        batch.push(cell);
        if batch.len() < BATCH {
            return;
        }
        let full = std::mem::replace(&mut *batch, Vec::with_capacity(BATCH));
        drop(batch);
        let mut batches = self.batches.lock();
        if batches.len() < self.max {
            batches.push(full);
            self.empty.store(false, Ordering::Relaxed);
        }
    }
}
