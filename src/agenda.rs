//! The jobs that are not due yet.

use std::collections::{BTreeMap, VecDeque};

use crate::extras::Place;
use crate::priority::Level;
use crate::sync::Arc;
use crate::task::Task;

#[derive(Default)]
pub(crate) struct Agenda {
    scheduled: BTreeMap<Place, Arc<Task>>,
    /// Due, but found no room in the queue: by level, and in the order in which they became due.
    waiting: [VecDeque<(Level, Arc<Task>)>; Level::COUNT],
    next: u64,
    /// Nothing is scheduled any more.
    closed: bool,
}

impl Agenda {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn close(&mut self) -> BTreeMap<Place, Arc<Task>> {
        self.closed = true;
        std::mem::take(&mut self.scheduled)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn insert(&mut self, place: Place, task: Arc<Task>) {
        self.scheduled.insert(place, task);
    }

    pub(crate) fn remove(&mut self, place: Place) -> Option<Arc<Task>> {
        self.scheduled.remove(&place)
    }

    pub(crate) fn first(&self) -> Option<Place> {
        self.scheduled.first_key_value().map(|(place, _)| *place)
    }

    pub(crate) fn len(&self) -> usize {
        self.scheduled.len()
    }

    /// Has a job that is due wait for room.
    pub(crate) fn await_room(&mut self, task: Arc<Task>) {
        let level = task.level();
        self.waiting[level as usize].push_back((level, task));
    }

    pub(crate) fn awaits_room(&self) -> bool {
        self.waiting.iter().any(|waiting| !waiting.is_empty())
    }

    /// Gives those that wait for room to `push`, at each level until one comes back.
    pub(crate) fn fill_room(&mut self, mut push: impl FnMut(Level, Arc<Task>) -> Result<(), Arc<Task>>) {
        for waiting in self.waiting.iter_mut().rev() {
            while let Some((level, task)) = waiting.pop_front() {
                if let Err(task) = push(level, task) {
                    waiting.push_front((level, task));
                    break;
                }
            }
        }
    }

    /// The first of those that wait for room.
    pub(crate) fn pop_waiting(&mut self) -> Option<(Level, Arc<Task>)> {
        self.waiting.iter_mut().rev().find_map(VecDeque::pop_front)
    }
}
