//! The one clock: monotonic ticks for everything that is compared, and a wall-clock offset for what is shown.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

// The clock is outside of what the models explore, so these are std's even there.
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// Where the process's first look at the clock lies: instants from before it have ticks too.
const EPOCH_TICK: u64 = 1 << 62;

/// How old the wall-clock offset may get before somebody reads the wall clock again. Under a model checker nobody does.
const WALL_REFRESH: u64 = if cfg!(any(loom, shuttle)) { u64::MAX } else { NANOS_PER_SEC };

/// An instant in nanoseconds. Eight bytes where an `Instant` takes sixteen, and no arithmetic on it can overflow: what is
/// too late for it (some 430 years ahead) is [`Tick::NEVER`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(u64);

impl Tick {
    /// The absence of a deadline: later than every other tick.
    pub(crate) const NEVER: Tick = Tick(u64::MAX);

    #[cfg(not(any(loom, shuttle)))]
    pub(crate) fn now() -> Tick {
        match virtual_now() {
            None => Tick::from(Instant::now()),
            Some(now) => now,
        }
    }

    /// Under a model checker, which wants every run to be repeatable, each look at the clock is a millisecond later than the
    /// one before.
    #[cfg(any(loom, shuttle))]
    pub(crate) fn now() -> Tick {
        // A model's threads share the thread that they are simulated on.
        std::thread_local! {
            static NOW: std::cell::Cell<u64> = const { std::cell::Cell::new(EPOCH_TICK) };
        }

        #[cfg(loom)]
        crate::sync::look_at_the_clock();
        NOW.set(NOW.get() + NANOS_PER_SEC / 1000);
        Tick(NOW.get())
    }

    /// The tick of a bit pattern that [`bits`](Tick::bits) gave.
    pub(crate) const fn from_bits(bits: u64) -> Tick {
        Tick(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// This much later; `NEVER` when that is too late to be told.
    pub(crate) fn after(self, wait: Duration) -> Tick {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        Tick(self.0.saturating_add(nanos))
    }

    /// This much earlier, as far back as ticks go.
    pub(crate) fn before(self, age: Duration) -> Tick {
        let nanos = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        Tick(self.0.saturating_sub(nanos))
    }

    /// The time from `earlier` to this tick; `None` when there is none left.
    pub(crate) fn since(self, earlier: Tick) -> Option<Duration> {
        match self.0.checked_sub(earlier.0) {
            None | Some(0) => None,
            Some(nanos) => Some(Duration::from_nanos(nanos)),
        }
    }

    /// `None` for `NEVER`.
    pub(crate) fn instant(self) -> Option<Instant> {
        if self == Tick::NEVER {
            return None;
        }
        match self.0.checked_sub(EPOCH_TICK) {
            Some(nanos) => epoch().checked_add(Duration::from_nanos(nanos)),
            None => epoch().checked_sub(Duration::from_nanos(EPOCH_TICK - self.0)),
        }
    }
}

impl From<Instant> for Tick {
    fn from(instant: Instant) -> Tick {
        let epoch = epoch();
        let nanos = |time: Duration| {
            time.as_secs().saturating_mul(NANOS_PER_SEC).saturating_add(time.subsec_nanos().into())
        };
        match instant.checked_duration_since(epoch) {
            Some(later) => Tick(EPOCH_TICK.saturating_add(nanos(later))),
            None => Tick(EPOCH_TICK.saturating_sub(nanos(epoch.duration_since(instant)))),
        }
    }
}

/// The time on a thread with manual delegators.
struct Virtual {
    /// How many there are. With none, time is real.
    users: Cell<usize>,
    now: Cell<u64>,
    /// A wall-clock offset.
    wall: Cell<u64>,
}

std::thread_local! {
    static VIRTUAL: Virtual =
        const { Virtual { users: Cell::new(0), now: Cell::new(0), wall: Cell::new(0) } };
}

/// Whether time was ever virtual anywhere: what everybody else looks at.
static EVER_VIRTUAL: AtomicBool = AtomicBool::new(false);

fn virtual_now() -> Option<Tick> {
    if !EVER_VIRTUAL.load(Ordering::Relaxed) {
        return None;
    }
    let now = VIRTUAL.try_with(|time| (time.users.get() > 0).then(|| Tick(time.now.get())));
    now.ok().flatten()
}

/// What others see of the time, also on a thread where it is virtual.
pub(crate) fn real_now() -> Tick {
    if is_virtual() { Tick::from(Instant::now()) } else { Tick::now() }
}

/// Whether time stands still on this thread but for [`pass_to`].
pub(crate) fn is_virtual() -> bool {
    virtual_now().is_some()
}

/// Makes time virtual on this thread, from the real time on. `true` if it was real.
pub(crate) fn begin_virtual() -> bool {
    let now = Tick::now();
    let wall = WallOffset::current(now);
    EVER_VIRTUAL.store(true, Ordering::Relaxed);
    VIRTUAL.with(|time| {
        let users = time.users.replace(time.users.get() + 1);
        if users == 0 {
            time.now.set(now.0);
            time.wall.set(wall.0);
        }
        users == 0
    })
}

/// Takes one [`begin_virtual`] back. `true` if that made time real again.
pub(crate) fn end_virtual() -> bool {
    let users = VIRTUAL.try_with(|time| {
        time.users.set(time.users.get().saturating_sub(1));
        time.users.get()
    });
    users == Ok(0)
}

/// Lets virtual time pass up to this tick; it never goes back.
pub(crate) fn pass_to(tick: Tick) {
    VIRTUAL.with(|time| time.now.set(time.now.get().max(tick.0)));
}

fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// What turns ticks into wall-clock times. All times of one job use the offset that was current at its creation, so that
/// they keep their order and distances whatever happens to the wall clock meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WallOffset(u64);

impl WallOffset {
    /// The offset as of `now`: read from the wall clock at most once a second.
    pub(crate) fn current(now: Tick) -> WallOffset {
        static OFFSET: AtomicU64 = AtomicU64::new(0);
        static READ_AT: AtomicU64 = AtomicU64::new(0);

        if is_virtual() {
            return WallOffset(VIRTUAL.with(|time| time.wall.get()));
        }
        let read_at = READ_AT.load(Ordering::Acquire);
        if now.0.saturating_sub(read_at) < WALL_REFRESH {
            return WallOffset(OFFSET.load(Ordering::Relaxed));
        }
        let offset = unix_nanos(SystemTime::now()).wrapping_sub(Tick::now().0);
        OFFSET.store(offset, Ordering::Relaxed);
        READ_AT.store(now.0, Ordering::Release);
        WallOffset(offset)
    }

    pub(crate) fn unix_nanos(self, tick: Tick) -> u64 {
        tick.0.wrapping_add(self.0)
    }

    pub(crate) fn unix_millis(self, tick: Tick) -> u64 {
        self.unix_nanos(tick) / 1_000_000
    }

    pub(crate) fn time(self, tick: Tick) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_nanos(self.unix_nanos(tick))).unwrap_or(UNIX_EPOCH)
    }
}

/// What the wall clock says now, in nanoseconds since 1970.
pub(crate) fn wall_now() -> u64 {
    if is_virtual() {
        let now = Tick::now();
        return WallOffset::current(now).unix_nanos(now);
    }
    unix_nanos(SystemTime::now())
}

/// Sets the wall clock of a thread where time is virtual.
pub(crate) fn set_virtual_wall(wall: SystemTime) {
    VIRTUAL.with(|time| time.wall.set(unix_nanos(wall).wrapping_sub(time.now.get())));
}

/// A wall clock set to before 1970 counts as 1970.
pub(crate) fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_survive_the_way_through_ticks() {
        let now = Instant::now();
        for instant in [now, now + Duration::from_secs(1 << 30), now - Duration::from_nanos(1)] {
            assert_eq!(Tick::from(instant).instant(), Some(instant));
        }
    }

    #[test]
    fn too_far_ahead_is_never() {
        assert_eq!(Tick::now().after(Duration::MAX), Tick::NEVER);
        assert_eq!(Tick::NEVER.after(Duration::MAX), Tick::NEVER);
        assert_eq!(Tick::NEVER.instant(), None);
    }

    #[test]
    fn nothing_is_left_of_a_reached_tick() {
        let tick = Tick::now();
        assert_eq!(tick.since(tick), None);
        assert_eq!(tick.since(tick.after(Duration::from_secs(1))), None);
        assert_eq!(tick.after(Duration::from_secs(1)).since(tick), Some(Duration::from_secs(1)));
    }

    #[test]
    fn wall_times_follow_the_ticks() {
        let now = Tick::now();
        let offset = WallOffset::current(now);
        let gap = offset.time(now).duration_since(SystemTime::now()).unwrap_or_else(|e| e.duration());
        assert!(gap < Duration::from_secs(5), "{gap:?} from the wall clock");
        let later = offset.time(now.after(Duration::from_secs(3)));
        assert_eq!(later.duration_since(offset.time(now)).ok(), Some(Duration::from_secs(3)));
    }
}
