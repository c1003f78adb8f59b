//! What happens when, in one thread and without a delegator.

use std::collections::{BTreeMap, VecDeque};

use crate::program::{Act, Call, Child, Ending, Every, NoRoom, Setup, Share, Spec, Time};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Scheduled,
    Queued,
    Running,
    Completed,
    Failed,
    Panicked,
    Cancelled,
    TimedOut,
    /// Not the delegator's: not accepted yet, or refused.
    Outside,
}

impl Stage {
    fn is_finished(self) -> bool {
        !matches!(self, Stage::Outside | Stage::Scheduled | Stage::Queued | Stage::Running)
    }

    fn waits(self) -> bool {
        matches!(self, Stage::Scheduled | Stage::Queued)
    }
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) spec: Spec,
    pub(crate) stage: Stage,
    deadline: Time,
    /// The job under whose context it is.
    parent: Option<usize>,
    cancelled_at: Option<Time>,
    /// Its place in the agenda.
    place: Option<(Time, u64)>,
    /// It is in a set, and it is to be tried again: either has it end at its deadline without anybody looking, in the
    /// order of these numbers.
    watched: Option<u64>,
    listens: Option<u64>,
    /// Its key holds it back; the order of these numbers is that of their coming.
    held_back: Option<u64>,
    /// What is to know when it has ended.
    series: Option<usize>,
    /// Its submission has returned a handle to cancel it with.
    pub(crate) held: bool,
    /// How often it was started before.
    pub(crate) attempts: u32,
    pub(crate) started: Option<Time>,
    /// It was, and not by a caller.
    pub(crate) on_worker: bool,
    pub(crate) ended: Option<Time>,
}

/// A periodic job.
pub(crate) struct Series {
    every: Every,
    calls: usize,
    /// When the next tick is due, at a fixed rate.
    next: Time,
    /// There is to be one job more when the last has ended.
    owed: bool,
    pub(crate) last: Option<usize>,
    pub(crate) submitted: u64,
    pub(crate) missed: u64,
    pub(crate) stopped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tick {
    series: usize,
    /// It is beside those that have times.
    owed: bool,
}

/// What waits in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Job(usize),
    Tick(Tick),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Open,
    Draining,
    Stopped,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stepped {
    Idle,
    /// It took out what could not run.
    Cleared,
    Ran,
}

/// What became of one that asked for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    NoRoom,
    In,
    Joins(usize),
}

/// The jobs with one key, the oldest first.
#[derive(Default)]
struct Key {
    /// Those that are in the queue, or run.
    holders: Vec<usize>,
    held: Vec<usize>,
}

const NEVER: Time = Time::MAX;

/// Where jobs of normal priority wait in the queue, if they have no key and if they have one.
const PLAIN: usize = 1;
const KEYED: usize = 3;

/// How often a level is passed over before it is its turn.
const PATIENCE: [u32; 3] = [32, 8, u32::MAX];

pub(crate) struct Model {
    setup: Setup,
    pub(crate) now: Time,
    pub(crate) jobs: Vec<Job>,
    /// What the queue holds at each level, jobs that have ended in it included, and whether it has no place. With or without
    /// a key, jobs of low and of high priority are in the same line.
    lines: [VecDeque<(Item, bool)>; 4],
    /// How many places of each priority jobs have that their keys hold back.
    reserved: [usize; 3],
    passed_over: [u32; 3],
    /// The last that was taken of normal priority had no key.
    turn_of_the_plain: bool,
    keys: BTreeMap<usize, Key>,
    /// The jobs that have been started and have not returned, one inside the other: those of the worker, or of a caller.
    stack: Vec<usize>,
    agenda: BTreeMap<(Time, u64), usize>,
    pub(crate) series: Vec<Series>,
    ticks: BTreeMap<(Time, u64), Tick>,
    number: u64,
    alarm: Time,
    phase: Phase,
    /// The worker has something to do.
    busy: bool,
    /// The operation that is on waits for what will never be: it panics.
    hopeless: bool,
    /// How many starts there have been.
    starts: u64,
    pub(crate) rejected: u64,
    pub(crate) dropped: u64,
    pub(crate) retried: u64,
    pub(crate) accepted: u64,
    /// In the order in which they ended.
    pub(crate) filed: Vec<usize>,
    /// The jobs that a shutdown gave back.
    pub(crate) unstarted: Vec<usize>,
    /// Jobs that were not submitted, and the jobs that they joined.
    pub(crate) joined: Vec<(usize, usize)>,
}

impl Model {
    pub(crate) fn new(setup: &Setup) -> Model {
        Model {
            setup: setup.clone(),
            now: 0,
            jobs: Vec::new(),
            lines: Default::default(),
            reserved: [0; 3],
            passed_over: [0; 3],
            turn_of_the_plain: false,
            keys: BTreeMap::new(),
            stack: Vec::new(),
            agenda: BTreeMap::new(),
            series: Vec::new(),
            ticks: BTreeMap::new(),
            number: 0,
            alarm: NEVER,
            phase: Phase::Open,
            busy: false,
            hopeless: false,
            starts: 0,
            rejected: 0,
            dropped: 0,
            retried: 0,
            accepted: 0,
            filed: Vec::new(),
            unstarted: Vec::new(),
            joined: Vec::new(),
        }
    }

    pub(crate) fn count(&self, stage: Stage) -> usize {
        self.jobs.iter().filter(|job| job.stage == stage).count()
    }

    /// How many places are taken, at each level.
    pub(crate) fn places(&self) -> [usize; 3] {
        let [low, plain, high, keyed] = [0, 1, 2, 3].map(|line| self.lines[line].len());
        [low + self.reserved[0], plain + keyed + self.reserved[1], high + self.reserved[2]]
    }

    pub(crate) fn keys_in_use(&self) -> usize {
        self.keys.len()
    }

    // Time.

    /// The deadlines that somebody waits for, with their places in the line and the jobs.
    fn timers(&self) -> impl Iterator<Item = (Time, u64, usize)> + '_ {
        let waiting = self.jobs.iter().enumerate().filter(|(_, job)| job.stage.waits());
        waiting
            .filter_map(|(k, job)| Some((job.deadline, job.watched.into_iter().chain(job.listens).min()?, k)))
    }

    fn next(&self) -> Time {
        self.timers().map(|(at, ..)| at).fold(self.alarm, Time::min)
    }

    /// `false` if nothing will ever be due.
    fn pass(&mut self, until: Time) -> bool {
        let next = self.next().min(until);
        if next == NEVER {
            return false;
        }
        self.now = self.now.max(next);
        while let Some((.., k)) = self.timers().filter(|(at, ..)| *at <= self.now).min() {
            self.look(k);
        }
        self.fire();
        true
    }

    fn pass_in_the_end(&mut self, until: Time) {
        assert!(self.pass(until), "the model waits for ever");
    }

    fn fire(&mut self) {
        if self.alarm > self.now {
            return;
        }
        self.alarm = NEVER;
        if self.phase != Phase::Open {
            return;
        }
        while let Some((&place, &k)) = self.agenda.first_key_value().filter(|((at, _), _)| *at <= self.now) {
            self.agenda.remove(&place);
            self.jobs[k].place = None;
            if self.jobs[k].stage == Stage::Scheduled {
                self.jobs[k].stage = Stage::Queued;
            }
            if self.jobs[k].spec.key.is_some() {
                self.enter(k, Share::Not, true);
            } else {
                self.push_due(self.line(k), Item::Job(k));
            }
        }
        while let Some((&place, &tick)) = self.ticks.first_key_value().filter(|((at, _), _)| *at <= self.now)
        {
            self.ticks.remove(&place);
            self.push_due(PLAIN, Item::Tick(tick));
        }
        let first = self.agenda.keys().next().into_iter().chain(self.ticks.keys().next());
        self.alarm = first.map(|(at, _)| *at).fold(self.alarm, Time::min);
    }

    fn push_due(&mut self, line: usize, item: Item) {
        let beyond = line == PLAIN && self.is_full(line);
        self.lines[line].push_back((item, beyond));
    }

    // The end of contexts.

    /// What ended the context of a job: what came first.
    fn end(&self, k: usize) -> Option<Stage> {
        let deadline = self.jobs[k].deadline;
        let mut cancelled = NEVER;
        let mut next = Some(k);
        while let Some(job) = next {
            cancelled = cancelled.min(self.jobs[job].cancelled_at.unwrap_or(NEVER));
            next = self.jobs[job].parent;
        }
        if cancelled != NEVER && cancelled < deadline {
            Some(Stage::Cancelled)
        } else if deadline <= self.now || cancelled != NEVER {
            Some(Stage::TimedOut)
        } else {
            None
        }
    }

    pub(crate) fn look(&mut self, k: usize) {
        if self.jobs[k].stage.waits() {
            if let Some(end) = self.end(k) {
                self.file(k, end);
            }
        }
    }

    fn file(&mut self, k: usize, stage: Stage) {
        if let Some(place) = self.jobs[k].place.take() {
            self.agenda.remove(&place);
        }
        self.leave(k);
        self.jobs[k].stage = stage;
        self.jobs[k].ended = Some(self.now);
        self.filed.push(k);
        if let Some(series) = self.jobs[k].series {
            self.job_ended(series);
        }
    }

    pub(crate) fn cancel(&mut self, k: usize) {
        if self.jobs[k].held || self.series.iter().any(|series| series.last == Some(k)) {
            self.cancel_job(k);
        }
    }

    fn cancel_job(&mut self, k: usize) {
        self.look(k);
        match self.jobs[k].stage {
            Stage::Scheduled | Stage::Queued => self.file(k, Stage::Cancelled),
            Stage::Running if self.jobs[k].cancelled_at.is_none() => {
                self.jobs[k].cancelled_at = Some(self.now);
                // A scheduled job listens to its context, and so does one that is to be tried again: who began first hears
                // it first.
                let jobs = self.jobs.iter().enumerate();
                let listen = jobs.filter(|(_, job)| job.stage == Stage::Scheduled || job.attempts > 0);
                let since = |job: &Job| job.listens.or(job.place.map(|(_, number)| number));
                let mut listen: Vec<_> = listen.map(|(other, job)| (since(job), other)).collect();
                listen.sort_unstable();
                listen.into_iter().for_each(|(_, other)| self.look(other));
            }
            _ => {}
        }
    }

    // Submission.

    fn add(&mut self, spec: &Spec, parent: Option<usize>) -> usize {
        let due = self.now.saturating_add(spec.delay.unwrap_or(0));
        let inherited = parent.map_or(NEVER, |parent| self.jobs[parent].deadline);
        // The end of a context that is done does not change any more.
        let ended = parent.is_some_and(|parent| self.end(parent).is_some());
        let own = spec.timeout.filter(|_| !ended).map_or(NEVER, |timeout| self.now + timeout).min(inherited);
        let deadline = match self.setup.default_timeout {
            Some(timeout) if own == NEVER => due + timeout,
            _ => own,
        };
        self.jobs.push(Job {
            spec: spec.clone(),
            stage: Stage::Outside,
            deadline,
            parent,
            cancelled_at: None,
            place: None,
            watched: None,
            listens: None,
            held_back: None,
            series: None,
            held: false,
            attempts: 0,
            started: None,
            on_worker: false,
            ended: None,
        });
        self.jobs.len() - 1
    }

    /// A submission.
    fn accept(&mut self, k: usize, no_room: NoRoom, share: Share) -> Option<usize> {
        if self.phase != Phase::Open {
            self.rejected += 1;
            return None;
        }
        if let Some(end) = self.end(k) {
            self.end_at_once(k, end);
            return None;
        }
        if share == Share::Joins {
            if let Some(other) = self.joinable(k) {
                return self.join(k, other);
            }
        }
        if let Some(delay) = self.jobs[k].spec.delay.filter(|delay| *delay > 0) {
            self.accepted += 1;
            self.schedule(k, (self.now + delay).min(self.jobs[k].deadline));
            if share == Share::Replaces {
                self.replace(k, self.others(k));
            }
            return None;
        }
        let mut entry = self.enter(k, share, false);
        let Spec { priority, key, .. } = self.jobs[k].spec;
        if entry == Entry::NoRoom && (priority, key) != (PLAIN, None) {
            self.end_late();
            entry = self.enter(k, share, false);
        }
        if entry == Entry::NoRoom {
            entry = match no_room {
                NoRoom::DropsOldest if self.setup.capacity > 0 => {
                    self.drop_one(self.line(k));
                    self.enter(k, share, true)
                }
                NoRoom::Fails | NoRoom::DropsOldest => {
                    self.rejected += 1;
                    return None;
                }
                _ if self.setup.capacity > 0 && self.is_at_work() && key.is_some() => {
                    self.enter(k, share, true)
                }
                NoRoom::Waits if !self.is_at_work() => self.wait_for_room(k, share)?,
                NoRoom::Waits | NoRoom::RunsHere => {
                    if self.gets_key(k) {
                        let others = self.others(k);
                        self.accepted += 1;
                        self.jobs[k].stage = Stage::Queued;
                        self.run(k);
                        if share == Share::Replaces {
                            self.replace(k, others);
                        }
                        return None;
                    }
                    self.wait_for_room(k, share)?
                }
            };
        }
        match entry {
            Entry::Joins(other) => return self.join(k, other),
            _ => self.accepted += 1,
        }
        None
    }

    /// Whether this is inside a job, or where the function of a periodic one is called.
    fn is_at_work(&self) -> bool {
        self.busy || !self.stack.is_empty()
    }

    /// `None` if the job ends instead, or there will never be room.
    fn wait_for_room(&mut self, k: usize, share: Share) -> Option<Entry> {
        let mut patience = self.now + 1;
        loop {
            let entry = self.enter(k, share, false);
            if entry != Entry::NoRoom {
                return Some(entry);
            }
            if let Some(end) = self.end(k) {
                self.end_at_once(k, end);
                return None;
            }
            if patience <= self.now {
                patience = NEVER;
            }
            if self.step() == Stepped::Idle && !self.pass(self.jobs[k].deadline.min(patience)) {
                assert!(self.is_at_work(), "the model waits for ever");
                self.hopeless = true;
                return None;
            }
        }
    }

    fn end_at_once(&mut self, k: usize, end: Stage) {
        self.accepted += 1;
        self.file(k, end);
    }

    fn join(&mut self, k: usize, other: usize) -> Option<usize> {
        self.joined.push((k, other));
        Some(other)
    }

    fn schedule(&mut self, k: usize, due: Time) {
        self.number += 1;
        (self.jobs[k].stage, self.jobs[k].place) = (Stage::Scheduled, Some((due, self.number)));
        self.agenda.insert((due, self.number), k);
        self.alarm = self.alarm.min(due);
    }

    /// Where it waits in the queue.
    fn line(&self, k: usize) -> usize {
        let spec = &self.jobs[k].spec;
        if self.setup.capacity == 0 {
            // There is nothing to overtake in.
            return PLAIN;
        }
        if spec.priority == PLAIN && spec.key.is_some() { KEYED } else { spec.priority }
    }

    fn is_full(&self, line: usize) -> bool {
        if self.setup.capacity == 0 {
            return self.busy || self.lines[PLAIN].iter().any(|(_, beyond)| !beyond);
        }
        let with_places = self.lines[line].iter().filter(|(_, beyond)| !beyond).count();
        let reserved = match line {
            PLAIN => 0,
            KEYED => self.reserved[PLAIN],
            _ => self.reserved[line],
        };
        with_places + reserved >= self.setup.capacity
    }

    /// Takes a place in the queue, ready or held back, if there is one, or `force` says that it needs none.
    fn enter(&mut self, k: usize, share: Share, force: bool) -> Entry {
        let line = self.line(k);
        let Some(key) = self.jobs[k].spec.key else {
            if self.is_full(line) && !force {
                return Entry::NoRoom;
            }
            self.put(k);
            self.jobs[k].stage = Stage::Queued;
            return Entry::In;
        };
        if share == Share::Joins {
            if let Some(other) = self.joinable(k) {
                return Entry::Joins(other);
            }
        }
        let others = self.others(k);
        // It has the place of one that ends for it.
        let exchanges = share == Share::Replaces
            && others.iter().any(|other| {
                let other = &self.jobs[*other];
                other.held_back.is_some() && other.spec.priority == self.jobs[k].spec.priority
            });
        let key_has_room = self.key_has_room(k);
        let has_room = !self.is_full(line) && (key_has_room || self.setup.capacity > 0);
        if !has_room && !force && !exchanges {
            return Entry::NoRoom;
        }
        self.jobs[k].stage = Stage::Queued;
        let key = self.keys.entry(key).or_default();
        if key_has_room {
            key.holders.push(k);
            self.put(k);
        } else {
            key.held.push(k);
            self.number += 1;
            self.jobs[k].held_back = Some(self.number);
            self.reserved[self.jobs[k].spec.priority] += 1;
        }
        if share == Share::Replaces {
            self.replace(k, others);
        }
        Entry::In
    }

    /// Puts it in the queue, where it has a place.
    fn put(&mut self, k: usize) {
        if self.setup.capacity == 0 {
            return self.push_due(PLAIN, Item::Job(k));
        }
        let line = self.line(k);
        self.lines[line].push_back((Item::Job(k), false));
    }

    // Keys.

    fn key_has_room(&self, k: usize) -> bool {
        let key = self.jobs[k].spec.key.and_then(|key| self.keys.get(&key));
        key.is_none_or(|key| key.held.is_empty() && key.holders.len() < self.limit(k))
    }

    /// Has it start without having been in the queue, if its key has room, or a job that it is inside of has it.
    fn takes_key(&mut self, k: usize) -> bool {
        let Some(key) = self.jobs[k].spec.key else { return true };
        let has_room = self.key_has_room(k);
        let holders = &mut self.keys.entry(key).or_default().holders;
        let takes = has_room || holders.iter().any(|holder| self.stack.contains(holder));
        if takes {
            holders.push(k);
        }
        takes
    }

    fn limit(&self, k: usize) -> usize {
        self.jobs[k].spec.key_limit.unwrap_or(self.setup.key_limit).max(1)
    }

    /// The jobs that have its key, the oldest first, but that those that are held back are after the others.
    fn others(&self, k: usize) -> Vec<usize> {
        let key = self.jobs[k].spec.key.and_then(|key| self.keys.get(&key));
        key.into_iter().flat_map(|key| key.holders.iter().chain(&key.held)).copied().collect()
    }

    /// The newest with its key whose time is not over.
    fn joinable(&mut self, k: usize) -> Option<usize> {
        while let Some(other) = self.others(k).pop() {
            self.look(other);
            if !self.jobs[other].stage.is_finished() {
                return Some(other);
            }
        }
        None
    }

    fn replace(&mut self, k: usize, others: Vec<usize>) {
        for other in others.into_iter().rev().filter(|other| *other != k) {
            self.cancel_job(other);
        }
    }

    /// It has its key no more; those that waited for it may start.
    fn leave(&mut self, k: usize) {
        let Some(name) = self.jobs[k].spec.key else { return };
        let Some(mut key) = self.keys.remove(&name) else { return };
        let had_it = key.holders.contains(&k) || key.held.contains(&k);
        key.holders.retain(|holder| *holder != k);
        key.held.retain(|held| *held != k);
        if self.jobs[k].held_back.take().is_some() {
            self.reserved[self.jobs[k].spec.priority] -= 1;
        }
        while had_it && key.held.first().is_some_and(|first| key.holders.len() < self.limit(*first)) {
            let first = key.held.remove(0);
            self.jobs[first].held_back = None;
            self.reserved[self.jobs[first].spec.priority] -= 1;
            self.put(first);
            key.holders.push(first);
        }
        if !key.holders.is_empty() || !key.held.is_empty() {
            self.keys.insert(name, key);
        }
    }

    /// All that are held back, the oldest first.
    fn all_held(&self) -> Vec<usize> {
        let mut held: Vec<usize> = self.keys.values().flat_map(|key| &key.held).copied().collect();
        held.sort_by_key(|k| self.jobs[*k].held_back);
        held
    }

    fn end_late(&mut self) {
        let late = self.all_held().into_iter().filter(|k| self.jobs[*k].deadline <= self.now);
        late.collect::<Vec<_>>().into_iter().for_each(|k| self.look(k));
    }

    /// The same; a job does what it can for that.
    fn gets_key(&mut self, k: usize) -> bool {
        while !self.takes_key(k) {
            let Some(holder) = self.queued_holder(k).filter(|_| self.is_at_work()) else { return false };
            self.run(holder);
        }
        true
    }

    fn queued_holder(&self, k: usize) -> Option<usize> {
        let key = self.jobs[k].spec.key.and_then(|key| self.keys.get(&key))?;
        key.holders.iter().copied().find(|holder| self.jobs[*holder].stage == Stage::Queued)
    }

    /// A job that waits for this one, which is queued, does what it takes. `false` if there is nothing that it can do.
    fn run_inside(&mut self, k: usize) -> bool {
        if self.jobs[k].held_back.is_none() {
            self.run(k);
            return true;
        }
        let name = self.jobs[k].spec.key.expect("it is held back");
        let key = self.keys.get_mut(&name).expect("it is known");
        if key.holders.iter().any(|holder| self.stack.contains(holder)) {
            // The key is lent.
            key.held.retain(|held| *held != k);
            key.holders.push(k);
            self.jobs[k].held_back = None;
            self.reserved[self.jobs[k].spec.priority] -= 1;
            self.run(k);
        } else if let Some(first) = self.queued_holder(k) {
            self.run(first);
        } else {
            return false;
        }
        true
    }

    // Submissions.

    pub(crate) fn submit(&mut self, spec: &Spec, share: Share) {
        let k = self.add(spec, None);
        self.accept(k, NoRoom::Waits, share);
        self.jobs[k].held = self.jobs[k].stage != Stage::Outside;
    }

    pub(crate) fn submit_to_set(&mut self, spec: &Spec) -> usize {
        let k = self.add(spec, None);
        self.accept(k, NoRoom::Waits, Share::Not);
        k
    }

    pub(crate) fn try_submit(&mut self, spec: &Spec) -> usize {
        let k = self.add(spec, None);
        self.accept(k, NoRoom::Fails, Share::Not);
        self.jobs[k].held = self.jobs[k].stage != Stage::Outside;
        k
    }

    pub(crate) fn drop_oldest(&mut self, spec: &Spec) {
        let k = self.add(spec, None);
        self.accept(k, NoRoom::DropsOldest, Share::Not);
        self.jobs[k].held = self.jobs[k].stage != Stage::Outside;
    }

    pub(crate) fn run_here(&mut self, spec: &Spec) {
        let k = self.add(spec, None);
        self.accept(k, NoRoom::RunsHere, Share::Not);
        self.jobs[k].held = true;
    }

    /// One gives way, however many there are: the first of those that could start, or the first that is held back.
    fn drop_one(&mut self, line: usize) {
        let first = self.lines[line].iter().position(|(_, beyond)| !beyond);
        let oldest = match first {
            Some(first) => self.lines[line].remove(first).map(|(item, _)| item),
            None => {
                let priority = if line == KEYED { PLAIN } else { line };
                let mut held = self.all_held().into_iter();
                held.find(|k| self.jobs[*k].spec.priority == priority).map(Item::Job)
            }
        };
        let oldest = match oldest.expect("a full queue") {
            Item::Job(oldest) => oldest,
            // It is no job, and comes again at once.
            Item::Tick(tick) => return self.set_tick(self.now, tick),
        };
        self.look(oldest);
        if self.jobs[oldest].stage == Stage::Queued {
            self.dropped += 1;
            self.file(oldest, Stage::Cancelled);
        }
    }

    /// Up to the first that is refused.
    pub(crate) fn try_submit_all(&mut self, specs: &[Spec]) {
        let mut refused = false;
        for spec in specs {
            if refused {
                self.add(spec, None);
                self.rejected += 1;
            } else {
                let k = self.try_submit(spec);
                refused = self.jobs[k].stage == Stage::Outside;
            }
        }
    }

    pub(crate) fn watch(&mut self, k: usize) {
        self.number += 1;
        self.jobs[k].watched = Some(self.number);
        self.look(k);
    }

    // Work.

    fn pop(&mut self) -> Option<Item> {
        if self.setup.capacity == 0 {
            // The worker is promised to what was accepted.
            let line = &mut self.lines[PLAIN];
            let promised = line.iter().position(|(_, beyond)| !beyond);
            let next = promised.filter(|_| self.phase == Phase::Open).unwrap_or(0);
            return line.remove(next).map(|(item, _)| item);
        }
        let [low, plain, high, keyed] = [0, 1, 2, 3].map(|line| !self.lines[line].is_empty());
        let waits = [low, plain || keyed, high];
        if low || high || keyed {
            let due = (0..3).find(|level| waits[*level] && self.passed_over[*level] >= PATIENCE[*level]);
            let chosen = due.or_else(|| (0..3).rev().find(|level| waits[*level]))?;
            for (level, passed_over) in self.passed_over.iter_mut().enumerate() {
                if level == chosen || !waits[level] {
                    *passed_over = 0;
                } else if level < chosen {
                    *passed_over += 1;
                }
            }
            if chosen != PLAIN {
                return self.lines[chosen].pop_front().map(|(item, _)| item);
            }
        } else if !self.lines[PLAIN].iter().any(|(_, beyond)| *beyond) {
            return self.lines[PLAIN].pop_front().map(|(item, _)| item);
        }
        if plain {
            self.turn_of_the_plain = !keyed || !self.turn_of_the_plain;
        }
        let line = if plain && self.turn_of_the_plain { PLAIN } else { KEYED };
        self.lines[line].pop_front().map(|(item, _)| item)
    }

    pub(crate) fn step(&mut self) -> Stepped {
        if self.busy {
            return Stepped::Idle;
        }
        let mut nothing = Stepped::Idle;
        loop {
            self.fire();
            let next = match self.phase {
                Phase::Open | Phase::Draining => self.pop(),
                Phase::Stopped => None,
            };
            let Some(item) = next else { return nothing };
            nothing = Stepped::Cleared;
            let k = match item {
                Item::Job(k) => k,
                Item::Tick(tick) => {
                    let before = self.starts;
                    self.on_the_worker(|model| model.tick(tick));
                    if self.starts > before {
                        return Stepped::Ran;
                    }
                    continue;
                }
            };
            // One that waits for its time or its key has left an old place behind.
            if self.jobs[k].stage != Stage::Queued || self.jobs[k].held_back.is_some() {
                continue;
            }
            self.on_the_worker(|model| model.look(k));
            if self.jobs[k].stage == Stage::Queued {
                self.on_the_worker(|model| model.run(k));
                return Stepped::Ran;
            }
        }
    }

    fn on_the_worker(&mut self, action: impl FnOnce(&mut Model)) {
        let callers = std::mem::take(&mut self.stack);
        self.busy = true;
        action(self);
        self.busy = false;
        self.stack = callers;
    }

    pub(crate) fn advance(&mut self, time: Time) -> usize {
        let until = self.now + time;
        let mut ran = 0;
        loop {
            while self.now <= until && self.step() == Stepped::Ran {
                ran += 1;
            }
            let next = self.next();
            if until < next {
                self.now = self.now.max(until);
                return ran;
            }
            self.pass_in_the_end(next);
        }
    }

    pub(crate) fn wait(&mut self, k: usize) {
        loop {
            self.look(k);
            if self.jobs[k].stage.is_finished() {
                return;
            }
            if self.step() == Stepped::Idle {
                self.pass_in_the_end(self.jobs[k].deadline);
            }
        }
    }

    pub(crate) fn wait_for_set(&mut self, members: &[usize]) {
        while members.iter().any(|k| !self.jobs[*k].stage.is_finished()) {
            if self.step() == Stepped::Idle {
                self.pass_in_the_end(NEVER);
            }
        }
    }

    fn run(&mut self, k: usize) {
        self.look(k);
        if self.jobs[k].stage != Stage::Queued {
            return;
        }
        (self.jobs[k].stage, self.jobs[k].started) = (Stage::Running, Some(self.now));
        self.jobs[k].on_worker = self.busy;
        self.starts += 1;
        self.stack.push(k);
        let Spec { script, ending, .. } = self.jobs[k].spec.clone();
        let mut obedient = None;
        let mut broken = false;
        for act in &script {
            match act {
                Act::Sleep(time) => {
                    let slept = self.sleep(k, *time);
                    if !slept && ending == Ending::Obeys {
                        obedient = self.end(k);
                        break;
                    }
                }
                Act::Submit(child) => broken = !self.submit_child(k, child),
                Act::Set(specs, waited) => broken = !self.submit_set_inside(specs, *waited),
                Act::Cancel(which) => self.cancel(which % self.jobs.len()),
                Act::Stop(which) => self.stop_one(*which),
            }
            if broken {
                break;
            }
        }
        let stage = match ending {
            _ if broken => Stage::Panicked,
            Ending::Obeys => obedient.or_else(|| self.end(k)).unwrap_or(Stage::Completed),
            Ending::Succeeds => Stage::Completed,
            Ending::Fails => Stage::Failed,
            Ending::Panics => Stage::Panicked,
        };
        self.stack.pop();
        if !matches!(stage, Stage::Failed | Stage::Panicked) || !self.try_again(k) {
            self.file(k, stage);
        }
    }

    /// Schedules the next attempt of a job that has failed, if there is to be one.
    fn try_again(&mut self, k: usize) -> bool {
        let Some((max, delay)) = self.jobs[k].spec.retry else { return false };
        let due = self.now + delay;
        if self.jobs[k].attempts + 1 >= max || self.end(k).is_some() || due >= self.jobs[k].deadline {
            return false;
        }
        self.leave(k);
        self.jobs[k].attempts += 1;
        self.jobs[k].started = None;
        if self.phase != Phase::Open {
            self.file(k, Stage::Cancelled);
            self.unstarted.push(k);
            return true;
        }
        self.retried += 1;
        self.schedule(k, due);
        // For this time only.
        self.number += 1;
        self.jobs[k].listens = Some(self.number);
        true
    }

    fn sleep(&mut self, k: usize, time: Time) -> bool {
        let until = self.now + time;
        loop {
            if self.end(k).is_some() {
                return false;
            }
            if until <= self.now {
                return true;
            }
            self.pass_in_the_end(until.min(self.jobs[k].deadline));
        }
    }

    /// `false` if it waits for what will never be: this panics.
    fn submit_child(&mut self, parent: usize, child: &Child) -> bool {
        let k = self.add(&child.spec, child.derived.then_some(parent));
        let other = self.accept(k, child.no_room, child.share());
        if std::mem::take(&mut self.hopeless) {
            return false;
        }
        self.jobs[k].held = self.jobs[k].stage != Stage::Outside;
        let awaited = other.unwrap_or(k);
        while child.waited && self.jobs[awaited].stage.waits() {
            self.look(awaited);
            let goes_on = match self.jobs[awaited].stage {
                Stage::Queued => self.run_inside(awaited),
                Stage::Scheduled => false,
                _ => true,
            };
            // A caller leaves the worker free.
            if !goes_on && self.step() == Stepped::Idle && !self.pass(self.jobs[awaited].deadline) {
                return false;
            }
        }
        true
    }

    /// Also `false` if it waits for what will never be.
    fn submit_set_inside(&mut self, specs: &[Spec], waited: bool) -> bool {
        let mut members = Vec::new();
        for spec in specs {
            let k = self.submit_to_set(spec);
            if std::mem::take(&mut self.hopeless) {
                self.drop_set(&members);
                return false;
            }
            if self.jobs[k].stage != Stage::Outside {
                self.watch(k);
                members.push(k);
            }
        }
        if !waited {
            self.drop_set(&members);
            return true;
        }
        // It goes round, and runs those that could start.
        let mut next = 0;
        while members.iter().any(|k| !self.jobs[*k].stage.is_finished()) {
            let mut round = (next..members.len()).chain(0..next);
            if let Some(ready) = round.find(|n| self.is_ready(members[*n])) {
                next = ready + 1;
                self.run(members[ready]);
                continue;
            }
            let held = members.iter().filter(|k| self.jobs[**k].held_back.is_some()).copied();
            let goes_on = held.collect::<Vec<_>>().into_iter().any(|k| self.run_inside(k));
            if !goes_on && self.step() == Stepped::Idle && !self.pass(NEVER) {
                self.drop_set(&members);
                return false;
            }
        }
        true
    }

    fn is_ready(&self, k: usize) -> bool {
        self.jobs[k].stage == Stage::Queued && self.jobs[k].held_back.is_none()
    }

    /// What is left of a set is cancelled.
    fn drop_set(&mut self, members: &[usize]) {
        members.iter().for_each(|k| self.cancel_job(*k));
    }

    // Periodic jobs.

    pub(crate) fn begin(&mut self, every: &Every) {
        let next = self.now + every.first.unwrap_or(every.interval);
        self.series.push(Series {
            every: every.clone(),
            calls: 0,
            next,
            owed: false,
            last: None,
            submitted: 0,
            missed: 0,
            stopped: false,
        });
        self.set_tick(next, Tick { series: self.series.len() - 1, owed: false });
    }

    pub(crate) fn stop_one(&mut self, which: usize) {
        if let Some(which) = which.checked_rem(self.series.len()) {
            self.stop(which);
        }
    }

    fn stop(&mut self, series: usize) {
        self.series[series].stopped = true;
        // One that is owed is due by now, and comes to nothing.
        self.ticks.retain(|_, tick| tick.series != series || tick.owed);
    }

    fn set_tick(&mut self, at: Time, tick: Tick) {
        if self.phase != Phase::Open {
            self.stop(tick.series);
        }
        if !self.series[tick.series].stopped {
            self.number += 1;
            self.ticks.insert((at, self.number), tick);
            self.alarm = self.alarm.min(at);
        }
    }

    /// It is the turn of a tick.
    fn tick(&mut self, tick: Tick) {
        if self.phase != Phase::Open {
            self.stop(tick.series);
        }
        let now = self.now;
        let series = &mut self.series[tick.series];
        if series.stopped {
            return;
        }
        if series.every.by_rate && !tick.owed {
            // This one is the last of those whose times have come.
            let mut missed = 0;
            series.next += series.every.interval;
            while series.next <= now {
                series.next += series.every.interval;
                missed += 1;
            }
            if missed > 0 && series.every.catches_up && !series.owed {
                series.owed = true;
                missed -= 1;
            }
            series.missed += missed;
            let next = series.next;
            self.set_tick(next, tick);
        }
        let series = &mut self.series[tick.series];
        if series.last.is_some_and(|last| !self.jobs[last].stage.is_finished()) {
            if (tick.owed || series.every.queues) && !series.owed {
                series.owed = true;
            } else {
                series.missed += 1;
            }
            return;
        }
        series.calls += 1;
        match series.every.calls.get(series.calls - 1) {
            Some(Call::Makes) => self.submit_periodic(tick.series),
            Some(Call::Panics) => {
                series.missed += 1;
                self.job_ended(tick.series);
            }
            None => {
                let spec = series.every.job.clone();
                self.stop(tick.series);
                self.add(&spec, None);
            }
        }
    }

    fn submit_periodic(&mut self, series: usize) {
        let spec = self.series[series].every.job.clone();
        let k = self.add(&spec, None);
        let Spec { priority, delay, retry, key, key_limit, .. } = spec;
        let is_plain = priority == PLAIN && delay.is_none() && retry.is_none() && key.or(key_limit).is_none();
        if is_plain {
            self.accepted += 1;
            self.jobs[k].stage = Stage::Queued;
        } else {
            self.accept(k, NoRoom::Waits, Share::Not);
        }
        self.series[series].submitted += 1;
        self.series[series].last = Some(k);
        if self.jobs[k].stage.is_finished() {
            self.job_ended(series);
        } else {
            self.jobs[k].series = Some(series);
        }
        if is_plain {
            self.run(k);
        }
    }

    /// Its last job has ended, or there was none.
    fn job_ended(&mut self, series: usize) {
        let Series { every, owed, .. } = &mut self.series[series];
        if std::mem::take(owed) {
            self.set_tick(self.now, Tick { series, owed: true });
        } else if !every.by_rate {
            let at = self.now + every.interval;
            self.set_tick(at, Tick { series, owed: false });
        }
    }

    // The end.

    pub(crate) fn shut_down(&mut self, cancel: bool) {
        self.phase = if cancel { Phase::Stopped } else { Phase::Draining };
        (0..self.series.len()).for_each(|series| self.stop(series));
        let scheduled: Vec<usize> = std::mem::take(&mut self.agenda).into_values().collect();
        scheduled.into_iter().for_each(|k| self.hand_back(k));
        if cancel {
            // None of them is to take the place of one that ends.
            let held = self.all_held();
            for k in &held {
                self.jobs[*k].held_back = None;
            }
            self.keys.clear();
            let queued =
                std::mem::take(&mut self.lines).into_iter().flatten().filter_map(|(item, _)| match item {
                    Item::Job(k) => Some(k),
                    Item::Tick(_) => None,
                });
            held.into_iter().chain(queued).for_each(|k| self.hand_back(k));
        }
        while self.step() == Stepped::Ran {}
    }

    fn hand_back(&mut self, k: usize) {
        self.look(k);
        if self.jobs[k].stage.waits() {
            self.file(k, Stage::Cancelled);
            self.unstarted.push(k);
        }
    }
}
