//! What happens when, in one thread and without a delegator.

use std::collections::{BTreeMap, VecDeque};

use crate::program::{Act, Child, Ending, Setup, Spec, Time};

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
    /// It is in a set, or to be tried again: it ends at its deadline without anybody looking, in the order of these numbers.
    watched: Option<u64>,
    /// Its submission has returned a handle to cancel it with.
    pub(crate) held: bool,
    /// How often it was started before.
    pub(crate) attempts: u32,
    pub(crate) started: Option<Time>,
    pub(crate) ended: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Open,
    Draining,
    Stopped,
}

const NEVER: Time = Time::MAX;

/// How often a level is passed over before it is its turn.
const PATIENCE: [u32; 3] = [32, 8, u32::MAX];

pub(crate) struct Model {
    setup: Setup,
    pub(crate) now: Time,
    pub(crate) jobs: Vec<Job>,
    /// What the queue holds at each level, jobs that have ended in it included, and whether it has no place.
    levels: [VecDeque<(usize, bool)>; 3],
    passed_over: [u32; 3],
    agenda: BTreeMap<(Time, u64), usize>,
    number: u64,
    alarm: Time,
    phase: Phase,
    busy: bool,
    pub(crate) rejected: u64,
    pub(crate) dropped: u64,
    pub(crate) retried: u64,
    pub(crate) accepted: u64,
    /// In the order in which they ended.
    pub(crate) filed: Vec<usize>,
    /// The jobs that a shutdown gave back.
    pub(crate) unstarted: Vec<usize>,
}

impl Model {
    pub(crate) fn new(setup: &Setup) -> Model {
        Model {
            setup: setup.clone(),
            now: 0,
            jobs: Vec::new(),
            levels: Default::default(),
            passed_over: [0; 3],
            agenda: BTreeMap::new(),
            number: 0,
            alarm: NEVER,
            phase: Phase::Open,
            busy: false,
            rejected: 0,
            dropped: 0,
            retried: 0,
            accepted: 0,
            filed: Vec::new(),
            unstarted: Vec::new(),
        }
    }

    pub(crate) fn count(&self, stage: Stage) -> usize {
        self.jobs.iter().filter(|job| job.stage == stage).count()
    }

    /// How many places are taken, at each level.
    pub(crate) fn places(&self) -> [usize; 3] {
        [0, 1, 2].map(|level| self.levels[level].len())
    }

    // Time.

    /// The deadlines that somebody waits for, with their places in the line and the jobs.
    fn timers(&self) -> impl Iterator<Item = (Time, u64, usize)> + '_ {
        let waiting = self.jobs.iter().enumerate().filter(|(_, job)| job.stage.waits());
        waiting.filter_map(|(k, job)| Some((job.deadline, job.watched?, k)))
    }

    fn next(&self) -> Time {
        self.timers().map(|(at, ..)| at).fold(self.alarm, Time::min)
    }

    fn pass(&mut self, until: Time) {
        let next = self.next().min(until);
        assert!(next != NEVER, "the model waits for ever");
        self.now = self.now.max(next);
        while let Some((.., k)) = self.timers().filter(|(at, ..)| *at <= self.now).min() {
            self.look(k);
        }
        self.fire();
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
            let level = self.jobs[k].spec.priority;
            let beyond = level == 1 && self.is_full(level);
            self.levels[level].push_back((k, beyond));
        }
        let first = self.agenda.first_key_value().map_or(NEVER, |((at, _), _)| *at);
        self.alarm = self.alarm.min(first);
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
        self.jobs[k].stage = stage;
        self.jobs[k].ended = Some(self.now);
        self.filed.push(k);
    }

    pub(crate) fn cancel(&mut self, k: usize) {
        if !self.jobs[k].held {
            return;
        }
        self.look(k);
        match self.jobs[k].stage {
            Stage::Scheduled | Stage::Queued => self.file(k, Stage::Cancelled),
            Stage::Running if self.jobs[k].cancelled_at.is_none() => {
                self.jobs[k].cancelled_at = Some(self.now);
                // A scheduled job listens to its context, and so does one that is to be tried again.
                for other in 0..self.jobs.len() {
                    if self.jobs[other].stage == Stage::Scheduled || self.jobs[other].attempts > 0 {
                        self.look(other);
                    }
                }
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
            held: false,
            attempts: 0,
            started: None,
            ended: None,
        });
        self.jobs.len() - 1
    }

    /// `None` where it is not the queue that decides.
    fn admit(&mut self, k: usize) -> Option<()> {
        if self.phase != Phase::Open {
            self.rejected += 1;
        } else if let Some(end) = self.end(k) {
            self.accepted += 1;
            self.file(k, end);
        } else if let Some(delay) = self.jobs[k].spec.delay.filter(|delay| *delay > 0) {
            self.accepted += 1;
            self.number += 1;
            let place = ((self.now + delay).min(self.jobs[k].deadline), self.number);
            (self.jobs[k].stage, self.jobs[k].place) = (Stage::Scheduled, Some(place));
            self.agenda.insert(place, k);
            self.alarm = self.alarm.min(place.0);
        } else {
            return None;
        }
        Some(())
    }

    fn is_full(&self, level: usize) -> bool {
        let with_places = self.levels[level].iter().filter(|(_, beyond)| !beyond);
        with_places.count() >= self.setup.capacity
    }

    fn push(&mut self, k: usize) -> bool {
        let fits = !self.is_full(self.jobs[k].spec.priority);
        if fits {
            self.put(k);
        }
        fits
    }

    fn put(&mut self, k: usize) {
        self.levels[self.jobs[k].spec.priority].push_back((k, false));
        self.accepted += 1;
        self.jobs[k].stage = Stage::Queued;
    }

    pub(crate) fn submit(&mut self, spec: &Spec) {
        let k = self.submit_to_set(spec);
        self.jobs[k].held = true;
    }

    pub(crate) fn submit_to_set(&mut self, spec: &Spec) -> usize {
        let k = self.add(spec, None);
        if self.admit(k).is_some() {
            return k;
        }
        let mut patience = self.now + 1;
        while !self.push(k) {
            if let Some(end) = self.end(k) {
                self.accepted += 1;
                self.file(k, end);
                break;
            }
            if patience <= self.now {
                patience = NEVER;
            }
            let taken = self.places();
            if !self.step() && self.places() == taken {
                self.pass(self.jobs[k].deadline.min(patience));
            }
        }
        k
    }

    pub(crate) fn try_submit(&mut self, spec: &Spec) -> usize {
        let k = self.add(spec, None);
        if self.admit(k).is_none() && !self.push(k) {
            self.rejected += 1;
        }
        self.jobs[k].held = self.jobs[k].stage != Stage::Outside;
        k
    }

    pub(crate) fn drop_oldest(&mut self, spec: &Spec) {
        let k = self.add(spec, None);
        if self.admit(k).is_none() && !self.push(k) {
            // One gives way, however many there are.
            let level = &mut self.levels[spec.priority];
            let first = level.iter().position(|(_, beyond)| !beyond).expect("a full queue");
            let (oldest, _) = level.remove(first).expect("it is there");
            self.look(oldest);
            if self.jobs[oldest].stage == Stage::Queued {
                self.dropped += 1;
                self.file(oldest, Stage::Cancelled);
            }
            self.put(k);
        }
        self.jobs[k].held = true;
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
        self.listen(k);
        self.look(k);
    }

    fn listen(&mut self, k: usize) {
        self.number += 1;
        self.jobs[k].watched.get_or_insert(self.number);
    }

    // Work.

    fn pop(&mut self) -> Option<usize> {
        let waits = [0, 1, 2].map(|level| !self.levels[level].is_empty());
        if !waits[0] && !waits[2] {
            return self.levels[1].pop_front().map(|(k, _)| k);
        }
        let due = (0..3).find(|level| waits[*level] && self.passed_over[*level] >= PATIENCE[*level]);
        let chosen = due.or_else(|| (0..3).rev().find(|level| waits[*level]))?;
        for (level, passed_over) in self.passed_over.iter_mut().enumerate() {
            if level == chosen || !waits[level] {
                *passed_over = 0;
            } else if level < chosen {
                *passed_over += 1;
            }
        }
        self.levels[chosen].pop_front().map(|(k, _)| k)
    }

    pub(crate) fn step(&mut self) -> bool {
        if self.busy {
            return false;
        }
        loop {
            self.fire();
            let next = match self.phase {
                Phase::Open | Phase::Draining => self.pop(),
                Phase::Stopped => None,
            };
            let Some(k) = next else { return false };
            self.look(k);
            if self.jobs[k].stage == Stage::Queued {
                self.busy = true;
                self.run(k);
                self.busy = false;
                return true;
            }
        }
    }

    pub(crate) fn advance(&mut self, time: Time) -> usize {
        let until = self.now + time;
        let mut ran = 0;
        loop {
            while self.step() {
                ran += 1;
            }
            let next = self.next();
            if until < next {
                self.now = self.now.max(until);
                return ran;
            }
            self.pass(next);
        }
    }

    pub(crate) fn wait(&mut self, k: usize) {
        loop {
            self.look(k);
            if self.jobs[k].stage.is_finished() {
                return;
            }
            let taken = self.places();
            if !self.step() && self.places() == taken {
                self.pass(self.jobs[k].deadline);
            }
        }
    }

    pub(crate) fn wait_for_set(&mut self, members: &[usize]) {
        while members.iter().any(|k| !self.jobs[*k].stage.is_finished()) {
            let taken = self.places();
            if !self.step() && self.places() == taken {
                self.pass(NEVER);
            }
        }
    }

    fn run(&mut self, k: usize) {
        self.look(k);
        if self.jobs[k].stage != Stage::Queued {
            return;
        }
        (self.jobs[k].stage, self.jobs[k].started) = (Stage::Running, Some(self.now));
        let Spec { script, ending, .. } = self.jobs[k].spec.clone();
        let mut obedient = None;
        for act in &script {
            match act {
                Act::Sleep(time) => {
                    let slept = self.sleep(k, *time);
                    if !slept && ending == Ending::Obeys {
                        obedient = self.end(k);
                        break;
                    }
                }
                Act::Submit(child) => self.submit_child(k, child),
                Act::Cancel(which) => self.cancel(which % self.jobs.len()),
            }
        }
        let stage = match ending {
            Ending::Obeys => obedient.or_else(|| self.end(k)).unwrap_or(Stage::Completed),
            Ending::Succeeds => Stage::Completed,
            Ending::Fails => Stage::Failed,
            Ending::Panics => Stage::Panicked,
        };
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
        self.jobs[k].attempts += 1;
        self.jobs[k].started = None;
        if self.phase != Phase::Open {
            self.file(k, Stage::Cancelled);
            self.unstarted.push(k);
            return true;
        }
        self.retried += 1;
        self.number += 1;
        (self.jobs[k].stage, self.jobs[k].place) = (Stage::Scheduled, Some((due, self.number)));
        self.agenda.insert((due, self.number), k);
        self.alarm = self.alarm.min(due);
        self.listen(k);
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
            self.pass(until.min(self.jobs[k].deadline));
        }
    }

    fn submit_child(&mut self, parent: usize, child: &Child) {
        let k = self.add(&child.spec, child.derived.then_some(parent));
        if self.admit(k).is_none() && !self.push(k) {
            if child.tries {
                self.rejected += 1;
            } else {
                self.accepted += 1;
                self.jobs[k].stage = Stage::Queued;
                self.run(k);
            }
        }
        self.jobs[k].held = self.jobs[k].stage != Stage::Outside;
        while child.waited && self.jobs[k].stage.waits() {
            self.look(k);
            match self.jobs[k].stage {
                Stage::Queued => self.run(k),
                Stage::Scheduled => self.pass(self.jobs[k].deadline),
                _ => {}
            }
        }
    }

    // The end.

    pub(crate) fn shut_down(&mut self, cancel: bool) {
        self.phase = if cancel { Phase::Stopped } else { Phase::Draining };
        let scheduled: Vec<usize> = std::mem::take(&mut self.agenda).into_values().collect();
        scheduled.into_iter().for_each(|k| self.hand_back(k));
        if cancel {
            for (k, _) in std::mem::take(&mut self.levels).into_iter().flatten() {
                self.hand_back(k);
            }
        }
        while self.step() {}
    }

    fn hand_back(&mut self, k: usize) {
        self.look(k);
        if self.jobs[k].stage.waits() {
            self.file(k, Stage::Cancelled);
            self.unstarted.push(k);
        }
    }
}
