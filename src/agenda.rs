//! The jobs that are not due yet, and the ticks that will make more of them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::{self, Tick};
use crate::extras::Place;
use crate::periodic::{DueTick, TickPlace};
use crate::sync::Arc;
use crate::task::Task;

/// How long nobody looks at the wall clock while a job waits for it, at the most: somebody may set it.
pub(crate) const WALL_LOOK: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(crate) struct Agenda {
    /// All jobs, by the tick at which there is something to do for them, with their times by the wall clock.
    scheduled: BTreeMap<(Tick, u64), (Arc<Task>, Option<u64>)>,
    /// Where those are that wait for the wall clock: in `scheduled` they are under their deadlines.
    by_wall: BTreeMap<(u64, u64), Tick>,
    ticks: BTreeMap<TickPlace, DueTick>,
    next: u64,
    /// Nothing is scheduled any more.
    closed: bool,
}

impl Agenda {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn close(&mut self) -> (Vec<Arc<Task>>, BTreeMap<TickPlace, DueTick>) {
        self.closed = true;
        self.by_wall.clear();
        let tasks = std::mem::take(&mut self.scheduled).into_values().map(|(task, _)| task).collect();
        (tasks, std::mem::take(&mut self.ticks))
    }

    /// A place for a job that waits for this tick, or for this time of the wall clock and, at the latest, the tick.
    pub(crate) fn place(&mut self, due: Tick, wall: Option<u64>) -> Place {
        self.next += 1;
        Place { due, wall, number: self.next }
    }

    pub(crate) fn insert(&mut self, place: Place, task: Arc<Task>) {
        if let Some(wall) = place.wall {
            self.by_wall.insert((wall, place.number), place.due);
        }
        self.scheduled.insert((place.due, place.number), (task, place.wall));
    }

    pub(crate) fn remove(&mut self, place: Place) -> Option<Arc<Task>> {
        if let Some(wall) = place.wall {
            self.by_wall.remove(&(wall, place.number));
        }
        self.scheduled.remove(&(place.due, place.number)).map(|(task, _)| task)
    }

    /// What the wall clock says, if anybody waits for it.
    pub(crate) fn wall_now(&self) -> Option<u64> {
        (!self.by_wall.is_empty()).then(clock::wall_now)
    }

    /// A job whose time has come.
    pub(crate) fn pop_due(&mut self, now: Tick, wall_now: Option<u64>) -> Option<Arc<Task>> {
        if let Some((&(due, number), &(_, wall))) = self.scheduled.first_key_value() {
            if due <= now {
                return self.remove(Place { due, wall, number });
            }
        }
        let (&(wall, number), &due) = self.by_wall.first_key_value()?;
        if Some(wall) > wall_now {
            return None;
        }
        self.remove(Place { due, wall: Some(wall), number })
    }

    /// When the next job or tick is due, or the wall clock is to be looked at.
    pub(crate) fn next_due(&self, now: Tick, wall_now: Option<u64>) -> Tick {
        let job = self.scheduled.first_key_value().map_or(Tick::NEVER, |((due, _), _)| *due);
        let tick = self.ticks.first_key_value().map_or(Tick::NEVER, |((at, _), _)| *at);
        let look = match (self.by_wall.first_key_value(), wall_now) {
            (Some((&(wall, _), _)), Some(wall_now)) => now.after(until_look(wall, wall_now)),
            _ => Tick::NEVER,
        };
        job.min(tick).min(look)
    }

    pub(crate) fn len(&self) -> usize {
        self.scheduled.len()
    }

    pub(crate) fn insert_tick(&mut self, at: Tick, tick: DueTick) -> TickPlace {
        self.next += 1;
        self.ticks.insert((at, self.next), tick);
        (at, self.next)
    }

    pub(crate) fn remove_tick(&mut self, place: TickPlace) -> Option<DueTick> {
        self.ticks.remove(&place)
    }

    pub(crate) fn pop_due_tick(&mut self, now: Tick) -> Option<DueTick> {
        let first = self.ticks.first_entry()?;
        if first.key().0 <= now { Some(first.remove()) } else { None }
    }
}

/// How long to wait before the wall clock is looked at for a job that waits for `wall`.
pub(crate) fn until_look(wall: u64, wall_now: u64) -> Duration {
    Duration::from_nanos(wall.saturating_sub(wall_now)).min(WALL_LOOK)
}
