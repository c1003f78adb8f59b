//! What the contenders are made to do, and what it cost them.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use peers::meter::{Cost, Meter};
use peers::stats::percentile;

use crate::contender::{Contender, Producer, tree_size};

/// Jobs of one burst.
pub const BURST: usize = 10_000;
const WORKERS: usize = 2;
const MANY_WORKERS: usize = 64;
/// Levels below the root of a tree of jobs.
pub const DEPTH: u32 = 10;
/// What one job of [`Workload::Work`] computes.
const COMPUTATION: Duration = Duration::from_micros(10);
/// Rests between two runs, so that threads that still end do not disturb the next.
const SETTLE: Duration = Duration::from_millis(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    Stream,
    Fanin,
    Pingpong,
    Work,
    Deadline,
    Burst,
    Nested,
    Many,
}

impl Workload {
    pub const ALL: [Self; 8] = [
        Self::Stream,
        Self::Fanin,
        Self::Burst,
        Self::Pingpong,
        Self::Work,
        Self::Many,
        Self::Deadline,
        Self::Nested,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Fanin => "fanin",
            Self::Pingpong => "pingpong",
            Self::Work => "work",
            Self::Deadline => "deadline",
            Self::Burst => "burst",
            Self::Nested => "nested",
            Self::Many => "many",
        }
    }

    /// Jobs of one run before they are scaled.
    fn jobs(self) -> usize {
        match self {
            Self::Stream | Self::Fanin | Self::Deadline | Self::Burst | Self::Many => 400_000,
            Self::Pingpong => 40_000,
            Self::Work => 20_000,
            Self::Nested => 100_000,
        }
    }
}

/// How large and of what kind the jobs are.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Share of the usual number of jobs.
    pub scale: f64,
    /// Bytes that an operation returns; none costs no allocation.
    pub payload: usize,
    /// Results that all producers together leave untaken at most.
    pub window: usize,
    /// Threads that submit in [`Workload::Fanin`].
    pub producers: usize,
}

impl Load {
    fn jobs(self, workload: Workload) -> usize {
        ((workload.jobs() as f64 * self.scale) as usize).max(1_000)
    }

    fn operation(self) -> impl Fn() -> Vec<u8> + Copy + Send + 'static {
        move || vec![0; black_box(self.payload)]
    }
}

/// One run of one contender. `main` is what the workload is judged by, `side` a second figure where it has one.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub main: f64,
    pub side: Option<f64>,
    pub jobs: f64,
    pub cost: Cost,
}

impl Sample {
    fn per_job(jobs: usize, cost: Cost) -> Self {
        let main = cost.wall.as_nanos() as f64 / jobs as f64;
        Self { main, side: None, jobs: jobs as f64, cost }
    }
}

/// Starts the pool, warms it up, runs the workload and stops the pool. `None` where a pool cannot do it.
pub fn run<C: Contender>(workload: Workload, load: Load) -> Option<Sample> {
    let jobs = load.jobs(workload);
    match workload {
        Workload::Stream | Workload::Deadline => {
            Some(with_pool::<C, _>(WORKERS, |pool| stream(pool, jobs, load)))
        }
        Workload::Fanin => Some(with_pool::<C, _>(WORKERS, |pool| fanin(pool, jobs, load))),
        Workload::Pingpong => Some(with_pool::<C, _>(WORKERS, |pool| pingpong(pool, jobs, load))),
        Workload::Work => Some(with_pool::<C, _>(WORKERS, |pool| work(pool, jobs, load))),
        Workload::Burst => Some(with_pool::<C, _>(WORKERS, |pool| burst(pool, jobs, load))),
        Workload::Nested => with_pool::<C, _>(WORKERS, |pool| nested(pool, jobs)),
        Workload::Many => {
            let two = with_pool::<C, _>(WORKERS, |pool| stream(pool, jobs, load));
            let many = with_pool::<C, _>(MANY_WORKERS, |pool| stream(pool, jobs, load));
            Some(Sample { side: Some(many.main / two.main), ..many })
        }
    }
}

fn with_pool<C: Contender, R>(workers: usize, measure: impl FnOnce(&C) -> R) -> R {
    let pool = C::start(workers);
    let result = measure(&pool);
    pool.stop();
    thread::sleep(SETTLE);
    result
}

/// Submits `jobs`, never leaving more than `window` results untaken, and takes them in the order of submission.
fn pump<P: Producer>(
    producer: &mut P,
    jobs: usize,
    window: usize,
    operation: impl Fn() -> Vec<u8> + Copy + Send + 'static,
) {
    let mut open = VecDeque::with_capacity(window);
    let mut delivered = 0;
    for _ in 0..jobs {
        if open.len() == window {
            delivered += open.pop_front().map_or(0, |ticket| take(producer, ticket));
        }
        open.push_back(producer.submit(operation));
    }
    delivered += open.into_iter().map(|ticket| take(producer, ticket)).sum::<usize>();
    assert_eq!(delivered, jobs, "one result per job");
}

fn take<P: Producer>(producer: &mut P, ticket: P::Ticket) -> usize {
    producer.wait(ticket, |bytes| {
        black_box(bytes);
        1
    })
}

fn warm_up<C: Contender>(pool: &C, jobs: usize, load: Load) {
    pump(&mut pool.producer(), (jobs / 10).min(20_000), load.window, load.operation());
}

fn stream<C: Contender>(pool: &C, jobs: usize, load: Load) -> Sample {
    warm_up(pool, jobs, load);
    let mut producer = pool.producer();
    let meter = Meter::start();
    pump(&mut producer, jobs, load.window, load.operation());
    Sample::per_job(jobs, meter.stop())
}

fn fanin<C: Contender>(pool: &C, jobs: usize, load: Load) -> Sample {
    warm_up(pool, jobs, load);
    let Load { producers, window, .. } = load;
    let (share, window) = (jobs / producers, window.div_ceil(producers));
    let meter = Meter::start();
    thread::scope(|scope| {
        for _ in 0..producers {
            let mut producer = pool.producer();
            scope.spawn(move || pump(&mut producer, share, window, load.operation()));
        }
    });
    Sample::per_job(share * producers, meter.stop())
}

/// `main` is the median of the round trips in nanoseconds, `side` what 99 of 100 stay below.
fn pingpong<C: Contender>(pool: &C, jobs: usize, load: Load) -> Sample {
    warm_up(pool, jobs, load);
    let mut producer = pool.producer();
    let operation = load.operation();
    let mut trips = Vec::with_capacity(jobs);
    let meter = Meter::start();
    for _ in 0..jobs {
        let began = Instant::now();
        let ticket = producer.submit(operation);
        take(&mut producer, ticket);
        trips.push(began.elapsed().as_nanos() as u64);
    }
    let cost = meter.stop();
    trips.sort_unstable();
    let side = Some(percentile(&trips, 0.99) as f64);
    Sample { main: percentile(&trips, 0.5) as f64, side, jobs: jobs as f64, cost }
}

/// All jobs of a burst are submitted before the first result is taken.
fn burst<C: Contender>(pool: &C, jobs: usize, load: Load) -> Sample {
    warm_up(pool, jobs, load);
    let mut producer = pool.producer();
    let bursts = (jobs / BURST).max(1);
    let meter = Meter::start();
    for _ in 0..bursts {
        pump(&mut producer, BURST, BURST, load.operation());
    }
    Sample::per_job(bursts * BURST, meter.stop())
}

fn nested<C: Contender>(pool: &C, jobs: usize) -> Option<Sample> {
    let size = tree_size(DEPTH);
    assert_eq!(pool.nested(DEPTH)?, size, "a full tree");
    let trees = (jobs as u64 / size).max(1);
    let meter = Meter::start();
    for _ in 0..trees {
        assert_eq!(pool.nested(DEPTH)?, size, "a full tree");
    }
    Some(Sample::per_job((trees * size) as usize, meter.stop()))
}

/// `main` is the share of the ideal: the time that bare threads take for the same computation, as many as there are
/// workers. `side` is the time for one job on one worker in nanoseconds. The two are measured in turns, so that both see
/// the same machine.
fn work<C: Contender>(pool: &C, jobs: usize, load: Load) -> Sample {
    const TURNS: usize = 5;
    let length = calibrate();
    let operation = move || compute(length).to_le_bytes().to_vec();
    let mut producer = pool.producer();
    pump(&mut producer, load.window, load.window, operation);

    let share = jobs / TURNS;
    let mut ideal = Duration::ZERO;
    let mut cost = Cost::default();
    for _ in 0..TURNS {
        ideal += bare(share, length);
        let meter = Meter::start();
        pump(&mut producer, share, load.window, operation);
        cost += meter.stop();
    }
    let jobs = (share * TURNS) as f64;
    let each = cost.wall.as_nanos() as f64 * WORKERS as f64 / jobs;
    Sample { main: ideal.as_secs_f64() / cost.wall.as_secs_f64(), side: Some(each), jobs, cost }
}

/// The computation alone, shared out among bare threads: from when all are there until the last is done.
fn bare(jobs: usize, length: u64) -> Duration {
    let gate = Barrier::new(WORKERS);
    let worker = || {
        gate.wait();
        let began = Instant::now();
        for _ in 0..jobs / WORKERS {
            black_box(compute(length).to_le_bytes().to_vec());
        }
        began.elapsed()
    };
    thread::scope(|scope| {
        let workers: [_; WORKERS] = std::array::from_fn(|_| scope.spawn(worker));
        let times = workers.into_iter().map(|worker| worker.join().expect("a computation does not panic"));
        times.max().unwrap_or_default()
    })
}

/// A chain of additions and shifts that no compiler shortens and no cache disturbs.
fn compute(length: u64) -> u64 {
    let mut value = black_box(0x9e37_79b9_7f4a_7c15);
    for _ in 0..length {
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
    }
    value
}

/// How long the chain must be to take as long as a job shall.
fn calibrate() -> u64 {
    const LENGTH: u64 = 200_000;
    let fastest = (0..5).map(|_| {
        let began = Instant::now();
        black_box(compute(black_box(LENGTH)));
        began.elapsed()
    });
    let each = fastest.min().unwrap_or(COMPUTATION).as_secs_f64() / LENGTH as f64;
    ((COMPUTATION.as_secs_f64() / each) as u64).max(1)
}
