//! What a program consists of.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Times are milliseconds.
pub(crate) type Time = u64;

#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) capacity: usize,
    pub(crate) default_timeout: Option<Time>,
    pub(crate) key_limit: usize,
}

/// What a submission does about others with its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    Not,
    Joins,
    Replaces,
}

#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Low, normal, high.
    pub(crate) priority: usize,
    pub(crate) delay: Option<Time>,
    pub(crate) timeout: Option<Time>,
    /// How often it is started at the most, and how long after a failure.
    pub(crate) retry: Option<(u32, Time)>,
    pub(crate) key: Option<usize>,
    pub(crate) key_limit: Option<usize>,
    pub(crate) script: Vec<Act>,
    pub(crate) ending: Ending,
}

/// What an operation does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Sleep(Time),
    Submit(Child),
    /// Submits them as a set, and waits for all or drops it.
    Set(Vec<Spec>, bool),
    /// Cancels one of all the jobs that there are, itself included.
    Cancel(usize),
    /// Stops one of the periodic jobs.
    Stop(usize),
}

/// What becomes of a submission that finds no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    Fails,
    Waits,
    RunsHere,
    DropsOldest,
}

#[derive(Clone, Debug)]
pub(crate) struct Child {
    pub(crate) spec: Spec,
    /// Under the context of the job that submits it.
    pub(crate) derived: bool,
    pub(crate) waited: bool,
    pub(crate) no_room: NoRoom,
    /// If it has a key, and waits for room.
    shares: Share,
}

impl Child {
    pub(crate) fn share(&self) -> Share {
        if self.spec.key.is_some() && self.no_room == NoRoom::Waits { self.shares } else { Share::Not }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ending {
    Succeeds,
    /// Unless its context is done.
    Obeys,
    Fails,
    Panics,
}

/// A periodic job.
#[derive(Clone, Debug)]
pub(crate) struct Every {
    /// Or after the job before.
    pub(crate) by_rate: bool,
    pub(crate) interval: Time,
    pub(crate) first: Option<Time>,
    pub(crate) catches_up: bool,
    /// Or leaves out what would overlap.
    pub(crate) queues: bool,
    pub(crate) job: Spec,
    /// What its function does when it is called. After these it stops the series: where jobs take longer than the interval,
    /// there is always one more to run.
    pub(crate) calls: Vec<Call>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Call {
    Makes,
    Panics,
}

/// What is done to the delegator from outside.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Submit(Spec),
    /// Joins or replaces those with its key, which it has.
    Share(Spec, Share),
    Try(Spec),
    /// In place of the oldest, if the queue is full.
    DropOldest(Spec),
    /// On the calling thread, if the queue is full.
    RunHere(Spec),
    SubmitAll(Vec<Spec>),
    /// Submits them as a set, and waits for all.
    Set(Vec<Spec>),
    Every(Every),
    Stop(usize),
    Cancel(usize),
    Look(usize),
    Wait(usize),
    RunOne,
    RunUntilIdle,
    Advance(Time),
}

#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) steps: Vec<Step>,
    /// How it ends: cancelled or drained.
    pub(crate) cancel: bool,
}

fn times() -> impl Strategy<Value = Time> {
    prop_oneof![Just(0), Just(1), (1_u64..8).prop_map(|n| n * 10), Just(500)]
}

fn endings() -> impl Strategy<Value = Ending> {
    prop_oneof![
        4 => Just(Ending::Succeeds),
        3 => Just(Ending::Obeys),
        2 => Just(Ending::Fails),
        1 => Just(Ending::Panics),
    ]
}

/// `keyed`: how many of them have keys.
fn specs(script: impl Strategy<Value = Vec<Act>>, keyed: f64) -> impl Strategy<Value = Spec> {
    let priority = prop_oneof![3 => Just(1_usize), 1 => Just(0), 1 => Just(2)];
    let limits = (option::weighted(0.3, times()), option::weighted(0.3, times()));
    let retry = option::weighted(0.3, (0_u32..4, times()));
    let key = (
        option::weighted(keyed, prop_oneof![3 => Just(0_usize), 1 => 1_usize..3]),
        option::weighted(0.2, 0_usize..4),
    );
    (priority, limits, retry, key, script, endings()).prop_map(
        |(priority, (delay, timeout), retry, (key, key_limit), script, ending)| Spec {
            priority,
            delay,
            timeout,
            retry,
            key,
            key_limit,
            script,
            ending,
        },
    )
}

fn shares() -> impl Strategy<Value = Share> {
    prop_oneof![2 => Just(Share::Not), 1 => Just(Share::Joins), 1 => Just(Share::Replaces)]
}

fn no_room() -> impl Strategy<Value = NoRoom> {
    prop_oneof![
        3 => Just(NoRoom::Waits),
        2 => Just(NoRoom::Fails),
        1 => Just(NoRoom::RunsHere),
        1 => Just(NoRoom::DropsOldest),
    ]
}

fn scripts(keyed: f64) -> impl Strategy<Value = Vec<Act>> {
    let leaf =
        vec(prop_oneof![4 => times().prop_map(Act::Sleep), 1 => any::<usize>().prop_map(Act::Cancel)], 0..3);
    leaf.prop_recursive(2, 6, 2, move |inner| {
        let set = (vec(specs(inner.clone(), keyed), 0..3), prop::bool::weighted(0.8));
        let set = set.prop_map(|(specs, waited)| Act::Set(specs, waited));
        let child = (specs(inner, keyed), any::<bool>(), any::<bool>(), no_room(), shares()).prop_map(
            |(spec, derived, waited, no_room, shares)| {
                Act::Submit(Child { spec, derived, waited, no_room, shares })
            },
        );
        let act = prop_oneof![
            2 => times().prop_map(Act::Sleep),
            3 => child,
            1 => set,
            1 => any::<usize>().prop_map(Act::Cancel),
            1 => any::<usize>().prop_map(Act::Stop),
        ];
        vec(act, 0..4)
    })
}

fn every(keyed: f64) -> impl Strategy<Value = Every> {
    let interval = prop_oneof![2 => 1_u64..10, 4 => (1_u64..8).prop_map(|n| n * 10), 1 => Just(500)];
    let when = (any::<bool>(), interval, option::of(times()), any::<bool>(), any::<bool>());
    let calls = vec(prop_oneof![5 => Just(Call::Makes), 1 => Just(Call::Panics)], 0..8);
    (when, specs(scripts(keyed), keyed), calls, any::<bool>()).prop_map(
        |((by_rate, interval, first, catches_up, queues), job, calls, plain)| {
            // Without options it runs at once.
            let options = if plain {
                (1, None, None, None, None)
            } else {
                (job.priority, job.delay, job.retry, job.key, job.key_limit)
            };
            let (priority, delay, retry, key, key_limit) = options;
            let job = Spec { priority, delay, retry, key, key_limit, ..job };
            Every { by_rate, interval, first, catches_up, queues, job, calls }
        },
    )
}

pub(crate) fn programs() -> impl Strategy<Value = (Setup, Program)> {
    prop_oneof![programs_of(0.2), programs_of(0.9)]
}

fn programs_of(keyed: f64) -> impl Strategy<Value = (Setup, Program)> {
    let setup = (
        prop_oneof![1 => Just(0), 3 => 1_usize..4, 1 => Just(100)],
        option::weighted(0.2, times()),
        1_usize..3,
    )
        .prop_map(|(capacity, default_timeout, key_limit)| Setup {
            capacity,
            default_timeout,
            key_limit,
        });
    let job = || specs(scripts(keyed), keyed);
    let step = prop_oneof![
        6 => job().prop_map(Step::Submit),
        2 => (job(), 0_usize..3, shares()).prop_map(|(spec, key, shares)| {
            Step::Share(Spec { key: Some(key), ..spec }, shares)
        }),
        4 => job().prop_map(Step::Try),
        4 => job().prop_map(Step::DropOldest),
        4 => job().prop_map(Step::RunHere),
        1 => vec(job(), 0..5).prop_map(Step::SubmitAll),
        1 => vec(job(), 0..4).prop_map(Step::Set),
        4 => every(keyed).prop_map(Step::Every),
        1 => any::<usize>().prop_map(Step::Stop),
        2 => any::<usize>().prop_map(Step::Cancel),
        1 => any::<usize>().prop_map(Step::Look),
        1 => any::<usize>().prop_map(Step::Wait),
        3 => Just(Step::RunOne),
        1 => Just(Step::RunUntilIdle),
        3 => times().prop_map(Step::Advance),
    ];
    let program = (vec(step, 1..25), any::<bool>()).prop_map(|(steps, cancel)| Program { steps, cancel });
    (setup, program).prop_map(|(setup, mut program)| {
        for step in &mut program.steps {
            if let (Step::Every(every), 0) = (step, setup.capacity) {
                // Without a queue its function may wait for the key for ever.
                every.job.key = None;
            }
        }
        (setup, program)
    })
}
