//! The jobs that are not due yet.

use std::collections::{BTreeMap, VecDeque};

use crate::extras::Place;
use crate::sync::Arc;
use crate::task::Task;

#[derive(Default)]
pub(crate) struct Agenda {
    scheduled: BTreeMap<Place, Arc<Task>>,
    /// Due, but found no room in the queue. In the order in which they became due.
    pub(crate) waiting: VecDeque<Arc<Task>>,
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
}
