//! When the delegator thread has to look around again.

use crate::clock::Tick;
use crate::directive::Directive;
use crate::sync::channel::Sender;
use crate::sync::{AtomicU64, Ordering, Padded};

/// One instant, the earliest that anybody asked for. There is no tick: without an alarm the delegator thread sleeps.
pub(crate) struct Alarm {
    at: Padded<AtomicU64>,
    admin: Sender<Directive>,
}

impl Alarm {
    pub(crate) fn new(admin: Sender<Directive>) -> Alarm {
        Alarm { at: Padded(AtomicU64::new(Tick::NEVER.bits())), admin }
    }

    /// Has the delegator thread look around at this tick, or earlier. What it is to find must be there before the call. Costs
    /// a load where an earlier alarm is set, and wakes the thread where not.
    pub(crate) fn set(&self, at: Tick) {
        if at.bits() < self.at.load(Ordering::SeqCst)
            && at.bits() < self.at.fetch_min(at.bits(), Ordering::SeqCst)
        {
            // A delegator thread that has ended has nothing to look after.
            let _ = self.admin.send(Directive::Look);
        }
    }

    pub(crate) fn next(&self) -> Tick {
        Tick::from_bits(self.at.load(Ordering::SeqCst))
    }

    /// For the delegator thread, before it looks: who comes later sets the alarm again.
    pub(crate) fn clear(&self) {
        self.at.store(Tick::NEVER.bits(), Ordering::SeqCst);
    }
}
