//! Who takes part in which workload, and under what name.

use peers::machine::version;

use crate::contender::{
    Bounded, Channel, Contender, DefaultTimeout, Joined, OneShot, Plain, Rayon, RayonJoin, RustyPool,
    Threadpool, Timeout, Tokio, Unbounded, Workpath,
};
use crate::workload::{self, Load, Sample, Workload};

/// A contender as the command line, the tables and the chart name it.
#[derive(Clone, Copy)]
pub struct Entry {
    pub key: &'static str,
    pub name: &'static str,
    /// The crate whose version counts.
    pub source: &'static str,
    pub role: Role,
    pub run: fn(Workload, Load) -> Option<Sample>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What the ratios are about.
    Subject,
    /// Counts when the best peer is looked for.
    Peer,
    /// Shown beside the others, compared with nothing.
    Other,
}

impl Entry {
    const fn new<C: Contender>(
        key: &'static str,
        name: &'static str,
        source: &'static str,
        role: Role,
    ) -> Self {
        Self { key, name, source, role, run: workload::run::<C> }
    }

    pub fn version(&self) -> &'static str {
        version(self.source)
    }
}

const WORKPATH: Entry = Entry::new::<Workpath<Plain>>("workpath", "workpath", "workpath", Role::Subject);

const USUAL: [Entry; 7] = [
    WORKPATH,
    Entry::new::<RustyPool>("rusty_pool", "rusty_pool::evaluate", "rusty_pool", Role::Peer),
    Entry::new::<Rayon<Bounded>>("rayon", "rayon::spawn", "rayon", Role::Peer),
    Entry::new::<Threadpool<Bounded>>("threadpool", "threadpool::execute", "threadpool", Role::Peer),
    Entry::new::<Tokio>("tokio", "tokio::spawn_blocking", "tokio", Role::Peer),
    Entry::new::<Channel<Bounded>>("channel", "crossbeam channel", "crossbeam-channel", Role::Peer),
    // The floor: closures and the smallest answer there is, tuned by hand.
    Entry::new::<Channel<OneShot>>("channel-oneshot", "channel + oneshot", "oneshot", Role::Other),
];

/// Take part only when they are asked for by key.
const ON_REQUEST: [Entry; 6] = [
    Entry::new::<Workpath<Joined>>("workpath-join", "workpath, join", "workpath", Role::Other),
    Entry::new::<Rayon<Unbounded>>("rayon-mpsc", "rayon, mpsc", "rayon", Role::Peer),
    Entry::new::<Rayon<OneShot>>("rayon-oneshot", "rayon + oneshot", "rayon", Role::Other),
    Entry::new::<Threadpool<Unbounded>>("threadpool-mpsc", "threadpool, mpsc", "threadpool", Role::Peer),
    Entry::new::<Threadpool<OneShot>>(
        "threadpool-oneshot",
        "threadpool + oneshot",
        "threadpool",
        Role::Other,
    ),
    Entry::new::<Channel<Unbounded>>("channel-mpsc", "channel, mpsc", "crossbeam-channel", Role::Peer),
];

const DEADLINE: [Entry; 3] = [
    Entry { role: Role::Peer, name: "no timeout", ..WORKPATH },
    Entry::new::<Workpath<Timeout>>("workpath-timeout", "timeout on every job", "workpath", Role::Subject),
    Entry::new::<Workpath<DefaultTimeout>>("workpath-default", "default timeout", "workpath", Role::Other),
];

const NESTED: [Entry; 3] = [
    WORKPATH,
    Entry::new::<Rayon<Bounded>>("rayon", "rayon::spawn, yield_now", "rayon", Role::Peer),
    Entry::new::<RayonJoin<Bounded>>("rayon-join", "rayon::join", "rayon", Role::Other),
];

/// Those of a workload, or those among all that were asked for by key.
pub fn entries(workload: Workload, keys: &[String]) -> Result<Vec<Entry>, String> {
    let own: &[Entry] = match workload {
        Workload::Deadline => &DEADLINE,
        Workload::Nested => &NESTED,
        _ => &USUAL,
    };
    if keys.is_empty() {
        return Ok(own.to_vec());
    }
    let everyone = || own.iter().chain(&USUAL).chain(&ON_REQUEST).chain(&DEADLINE);
    let find = |key: &String| {
        let found = everyone().find(|entry| entry.key == key);
        found.copied().ok_or_else(|| format!("no contender has the key {key}"))
    };
    keys.iter().map(find).collect()
}

pub fn print() {
    for entry in USUAL.iter().chain(&ON_REQUEST).chain(&DEADLINE[1..]).chain(&NESTED[2..]) {
        println!("{:20} {} {}", entry.key, entry.name, entry.version());
    }
}
