//! When the delegator thread has to look around again.

use std::time::Duration;

use crate::clock::{self, Tick};
use crate::directive::Directive;
use crate::sync::channel::Sender;
use crate::sync::{Arc, AtomicU64, Ordering, Padded, Weak};

/// One instant, the earliest that anybody asked for. There is no tick: without an alarm the delegator thread sleeps.
pub(crate) struct Alarm {
    at: Padded<AtomicU64>,
    admin: Sender<Directive>,
    /// How long an operation may go on when its context has ended.
    pub(crate) margin: Duration,
}

impl Alarm {
    pub(crate) fn new(admin: Sender<Directive>, margin: Duration) -> Arc<Alarm> {
        let alarm = Arc::new(Alarm { at: Padded(AtomicU64::new(Tick::NEVER.bits())), admin, margin });
        enlist(&alarm);
        alarm
    }

    /// Has the delegator thread look around at this tick, or earlier. What it is to find must be there before the call.
    /// Costs a load where an earlier alarm is set, and wakes the thread where not.
    pub(crate) fn set(&self, at: Tick) {
        if at.bits() < self.at.load(Ordering::SeqCst)
            && at.bits() < self.at.fetch_min(at.bits(), Ordering::SeqCst)
        {
            // A delegator thread that has ended has nothing to look after.
            let _ = self.admin.send(Directive::Look);
        }
    }

    /// Has it look whether a running job whose context ends at this tick is stuck.
    pub(crate) fn set_for_end(&self, end: Tick) {
        self.set(end.after(self.margin));
    }

    pub(crate) fn next(&self) -> Tick {
        Tick::from_bits(self.at.load(Ordering::SeqCst))
    }

    /// For the delegator thread, before it looks: who comes later sets the alarm again.
    pub(crate) fn clear(&self) {
        self.at.store(Tick::NEVER.bits(), Ordering::SeqCst);
    }
}

/// The alarms of all delegators, for those who cancel a context that jobs run under: they do not know where. Not part of the
/// models.
static ALL: parking_lot::Mutex<Vec<Weak<Alarm>>> = parking_lot::Mutex::new(Vec::new());

fn enlist(alarm: &Arc<Alarm>) {
    if cfg!(not(any(loom, shuttle))) {
        let mut all = ALL.lock();
        all.retain(|alarm| alarm.strong_count() > 0);
        all.push(Arc::downgrade(alarm));
    }
}

#[cfg(all(test, loom))]
std::thread_local! {
    /// How often all were set, for the models.
    pub(crate) static SETS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A context that jobs may run under has been cancelled.
#[cold]
pub(crate) fn set_all_for_end() {
    #[cfg(all(test, loom))]
    SETS.set(SETS.get() + 1);
    // An alarm that goes off too early, where time is virtual, is set again.
    let now = Tick::now().min(clock::real_now());
    let alarms: Vec<_> = ALL.lock().iter().filter_map(Weak::upgrade).collect();
    for alarm in alarms {
        alarm.set_for_end(now);
    }
}
