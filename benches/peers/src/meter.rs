//! What one run cost: wall time, processor time, context switches and memory traffic.

use std::ops::AddAssign;
use std::time::{Duration, Instant};

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::alloc::{Counts, counts};

/// The cost of everything that the process did between [`Meter::start`] and [`Meter::stop`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub wall: Duration,
    /// User and system time of all threads.
    pub cpu: Duration,
    /// Times a thread gave its processor up because it had to wait.
    pub switches: u64,
    pub memory: Counts,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.wall += other.wall;
        self.cpu += other.cpu;
        self.switches += other.switches;
        self.memory += other.memory;
    }
}

#[derive(Debug)]
pub struct Meter {
    switches: u64,
    cpu: Duration,
    memory: Counts,
    began: Instant,
}

impl Meter {
    pub fn start() -> Self {
        let usage = usage();
        let memory = counts();
        Self { switches: switches(&usage), cpu: cpu(&usage), memory, began: Instant::now() }
    }

    pub fn stop(self) -> Cost {
        let wall = self.began.elapsed();
        let memory = counts() - self.memory;
        let usage = usage();
        Cost { wall, cpu: cpu(&usage) - self.cpu, switches: switches(&usage) - self.switches, memory }
    }
}

fn usage() -> Usage {
    getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask for its own usage")
}

fn switches(usage: &Usage) -> u64 {
    usage.voluntary_context_switches().unsigned_abs()
}

fn cpu(usage: &Usage) -> Duration {
    let micros = |time: TimeVal| time.num_microseconds().unsigned_abs();
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

/// Resident memory of this process in bytes, now and at its highest.
pub fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    let bytes = |key: &str| field(key).unwrap_or(0) * 1024;
    (bytes("VmRSS:"), bytes("VmHWM:"))
}
