//! Everything at once, for a while, with every promise checked: `soak --seconds N --seed S [--workers W]`.
//!
//! Producers throw jobs of all kinds at one delegator: operations that fail, panic, dawdle, ignore their context or submit
//! more of their kind; captured values, errors, panic payloads and callbacks that panic in turn; contexts that are
//! cancelled or run out of time. Its registry is read and cleared, its logger submits jobs of its own, and other
//! delegators are built and ended in every way.
//!
//! Once a second all stand still. Then the numbers must add up, everything captured must be dropped, no id may have come
//! twice, and threads and memory must be what they were. What is violated is printed with the seed, and the exit code
//! is 1. The seed decides what every thread does, though not how they interleave.

mod churn;
mod jobs;
mod producers;
mod watch;
mod world;

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use workpath::{Delegator, Retention, Shutdown, Stats};

use crate::jobs::Site;
use crate::producers::{KEPT, KEPT_BYTES, Pace};
use crate::watch::Logger;
use crate::world::{Door, LEDGER, PATIENCE, Rng, eventually, lock};

const PRODUCERS: usize = 3;
const CHURNERS: usize = 1;
const READERS: usize = 1;
const ROUND: Duration = Duration::from_secs(1);

/// By how much memory may grow after the warm-up. That much is noise: threads come and go, and allocators keep what they may
/// need again. A leak of one byte per job is more than that within a quarter of an hour.
const SLACK: u64 = 16 << 20;

/// How many rounds pass before memory is measured for the first time, if there are that many.
const WARM_UP: u64 = 30;

static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Args {
    seconds: u64,
    seed: u64,
    workers: usize,
}

impl Args {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, Box<dyn Error>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let mut parsed = Args { seconds: 10, seed: now.as_nanos() as u64, workers: 4 };
        while let Some(name) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{name} needs a value"));
            match &*name {
                "--seconds" => parsed.seconds = value()?.parse()?,
                "--seed" => parsed.seed = value()?.parse()?,
                "--workers" => parsed.workers = value()?.parse()?,
                _ => return Err(format!("usage: soak --seconds N --seed S [--workers W], not {name}").into()),
            }
        }
        Ok(parsed)
    }
}

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("soak: {error}");
            return ExitCode::from(2);
        }
    };
    println!("soak: seed {}, {} s, {} workers", args.seed, args.seconds, args.workers);
    match soak(&args) {
        Ok(summary) => println!("{summary}"),
        Err(error) => LEDGER.fail(error),
    }
    match LEDGER.violation() {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("soak: FAILED with seed {}: {violation}", args.seed);
            ExitCode::FAILURE
        }
    }
}

fn soak(args: &Args) -> Result<String, Box<dyn Error>> {
    watch::hush();
    watch::stop_on_signal()?;
    let mut rng = Rng::new(args.seed);
    let logger = LOGGER.get_or_init(|| Logger { rng: Mutex::new(rng.fork()), door: OnceLock::new() });
    log::set_logger(logger).map_err(|error| error.to_string())?;
    log::set_max_level(log::LevelFilter::Trace);

    let delegator = Delegator::builder()
        .workers(args.workers)
        .queue_capacity(64)
        .retain(Retention::last(KEPT).max_bytes(KEPT_BYTES))
        .thread_name("main")
        .on_worker_start(|_| panic!("a start hook that panics"))
        .on_worker_stop(|_| panic!("a stop hook that panics"))
        .build()?;
    let delegator = Arc::new(delegator);
    let door = Door::new(delegator.submitter());
    let _ = logger.door.set(door.clone());
    let site = Site { door, delegator: Arc::clone(&delegator) };

    let places = PRODUCERS + CHURNERS + READERS;
    let pace = Arc::new(Pace {
        barrier: Barrier::new(places + 1),
        resting: AtomicBool::new(false),
        ids: Mutex::default(),
        places: (0..places).map(|_| Mutex::new("about to start")).collect(),
        steps: AtomicU64::new(0),
    });
    watch::watchdog(Arc::clone(&pace), &delegator, args.seed);
    let mut observer = Observer::new(args, &site, &pace);
    thread::scope(|scope| {
        for place in 0..places {
            let (rng, site, pace, delegator) = (rng.fork(), &site, &*pace, &delegator);
            let body = move || match place {
                0..PRODUCERS => producers::produce(pace, place, rng, site),
                PRODUCERS => churn::churn(pace, place, rng, site),
                _ => producers::read(pace, place, rng, delegator),
            };
            let guarded = move || {
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
                    // The others would wait for it at the next quiet point.
                    println!("soak: FAILED with seed {}: {}", args.seed, watch::last_panic());
                    std::process::exit(1);
                }
            };
            let spawned = thread::Builder::new().name(format!("soak-{place}")).spawn_scoped(scope, guarded);
            if let Err(error) = spawned {
                println!("soak: no thread: {error}");
                std::process::exit(1);
            }
        }
        observer.observe();
    });
    let stats = delegator.stats();
    end(&delegator)?;
    Ok(observer.summary(&stats))
}

/// The one delegator ends like any other.
fn end(delegator: &Delegator) -> Result<(), Box<dyn Error>> {
    let report = delegator.shutdown(Shutdown::drain().within(PATIENCE));
    if report.total() > 0 {
        return Err(format!("nothing was left to be done, but {report:?}").into());
    }
    Ok(())
}

/// The thread that calls for quiet, and looks whether all is as it should be.
struct Observer<'a> {
    args: &'a Args,
    site: &'a Site,
    pace: &'a Pace,
    start: Instant,
    rounds: u64,
    newest: Option<workpath::JobId>,
    threads: Option<usize>,
    /// Resident memory after the warm-up, the highest since, and the last.
    memory: Option<[u64; 3]>,
    reported: (Instant, u64),
}

impl<'a> Observer<'a> {
    fn new(args: &'a Args, site: &'a Site, pace: &'a Pace) -> Observer<'a> {
        let start = Instant::now();
        Observer {
            args,
            site,
            pace,
            start,
            rounds: 0,
            newest: None,
            threads: None,
            memory: None,
            reported: (start, 0),
        }
    }

    fn observe(&mut self) {
        let whole = Duration::from_secs(self.args.seconds);
        while !LEDGER.is_stopped() {
            let round = (Instant::now() + ROUND).min(self.start + whole);
            while Instant::now() < round && !LEDGER.is_stopped() {
                thread::sleep(Duration::from_millis(10));
            }
            self.pace.resting.store(true, Ordering::SeqCst);
            self.pace.barrier.wait();
            self.look();
            if self.start.elapsed() >= whole {
                LEDGER.stop();
            }
            self.pace.resting.store(false, Ordering::SeqCst);
            self.pace.barrier.wait();
        }
    }

    /// At a quiet point: nobody but the delegators' threads may do anything.
    fn look(&mut self) {
        self.rounds += 1;
        let delegator = &self.site.delegator;
        let idle = delegator.wait_idle_timeout(PATIENCE);
        LEDGER.check(idle, || format!("not idle after {PATIENCE:?}: {:?}", delegator.stats()));
        // A worker may still be about to skip what was cancelled in the queue.
        LEDGER.check(eventually(|| LEDGER.afloat() == 0), || {
            format!("{} values that jobs captured are never dropped", LEDGER.afloat())
        });
        // Side delegators let go of the last job a moment before its last announcement is over, and the logger submits.
        let mut numbers = None;
        let settled = eventually(|| {
            numbers = self.numbers();
            numbers.is_some()
        });
        LEDGER.check(settled, || "submissions go on at a quiet point".to_owned());
        let Some((stats, accepted, refused)) = numbers else { return };
        let ended = stats.completed + stats.failed + stats.panicked + stats.cancelled + stats.timed_out;
        let balanced = stats.submitted == ended
            && (stats.queued, stats.running) == (0, 0)
            && (stats.submitted, stats.rejected) == (accepted, refused);
        LEDGER.check(balanced, || format!("{accepted} accepted and {refused} refused, but {stats:?}"));
        let working = delegator.workers().into_iter().filter(|worker| worker.running.is_some()).count();
        LEDGER.check(working == 0, || format!("{working} workers work at nothing"));
        let records = delegator.registry().len();
        LEDGER.check(records <= KEPT, || format!("{records} records are retained"));

        self.ids();
        self.system();
        self.report(&stats);
    }

    /// The delegator's numbers, and how many submissions were accepted and refused; `None` if there was one meanwhile.
    fn numbers(&self) -> Option<(Stats, u64, u64)> {
        let tally = self.site.door.tally();
        let begun = tally.begun.load(Ordering::SeqCst);
        let (accepted, refused) =
            (tally.accepted.load(Ordering::SeqCst), tally.refused.load(Ordering::SeqCst));
        let idle = accepted + refused == begun && self.site.delegator.wait_idle_timeout(PATIENCE);
        let stats = self.site.delegator.stats();
        (idle && tally.begun.load(Ordering::SeqCst) == begun).then_some((stats, accepted, refused))
    }

    /// No id comes twice, and none is older than those of the round before.
    fn ids(&mut self) {
        let mut ids = std::mem::take(&mut *lock(&self.pace.ids));
        ids.sort_unstable();
        LEDGER.check(ids.windows(2).all(|pair| pair[0] < pair[1]), || "two jobs have one id".to_owned());
        if let (Some(newest), Some(oldest)) = (self.newest, ids.first()) {
            LEDGER.check(newest < *oldest, || format!("{oldest} is new and {newest} is not"));
        }
        self.newest = ids.last().copied().or(self.newest);
        ids.clear();
        *lock(&self.pace.ids) = ids;
    }

    fn system(&mut self) {
        if self.rounds == 1 {
            // The timer thread exists by now; what has detached itself has ended or will.
            thread::sleep(Duration::from_millis(200));
            self.threads = watch::threads();
        } else if let (Some(before), Some(_)) = (self.threads, watch::threads()) {
            // Neither more nor less: a worker that is gone is as bad as one that stays.
            let back = eventually(|| watch::threads().is_none_or(|now| now == before));
            LEDGER.check(back, || format!("{before} threads at the beginning, {:?} now", watch::threads()));
        }
        let warm_up = WARM_UP.min(self.args.seconds / 3);
        let Some(resident) = watch::resident() else { return };
        match &mut self.memory {
            None if self.rounds > warm_up => self.memory = Some([resident; 3]),
            None => {}
            Some([first, highest, last]) => {
                *last = resident;
                *highest = resident.max(*highest);
                LEDGER.check(resident <= *first + SLACK, || {
                    format!("{} of memory after the warm-up, {} now", mebibytes(*first), mebibytes(resident))
                });
            }
        }
    }

    fn report(&mut self, stats: &Stats) {
        const EVERY: Duration = Duration::from_secs(5);

        let (at, jobs) = self.reported;
        if at.elapsed() < EVERY && self.start.elapsed() < Duration::from_secs(self.args.seconds) {
            return;
        }
        println!(
            "{:6.0} s: {:7.0} jobs/s, {} submitted, {} rejected: {}; {} delegators; {}, {} threads",
            self.start.elapsed().as_secs_f64(),
            (stats.submitted - jobs) as f64 / at.elapsed().as_secs_f64(),
            stats.submitted,
            stats.rejected,
            by_state(stats),
            LEDGER.delegators.load(Ordering::Relaxed),
            watch::resident().map_or_else(|| "memory unknown".to_owned(), mebibytes),
            watch::threads().map_or_else(|| "unknown".to_owned(), |count| count.to_string()),
        );
        self.reported = (Instant::now(), stats.submitted);
    }

    fn summary(&self, stats: &Stats) -> String {
        let [first, highest, last] = self.memory.unwrap_or_default().map(mebibytes);
        let seen: u64 = LEDGER.seen.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        format!(
            "soak: seed {}: {} jobs in {:.0} s ({}; {} refused); {} operations run, {} outcomes checked, \
             {} other delegators, {} callbacks, {} log lines; memory after the warm-up {first}, at the end {last}, \
             at most {highest}; {} quiet points",
            self.args.seed,
            stats.submitted,
            self.start.elapsed().as_secs_f64(),
            by_state(stats),
            stats.rejected,
            LEDGER.runs.load(Ordering::Relaxed),
            seen,
            LEDGER.delegators.load(Ordering::Relaxed),
            LEDGER.callbacks.load(Ordering::Relaxed),
            LEDGER.lines.load(Ordering::Relaxed),
            self.rounds,
        )
    }
}

fn by_state(stats: &Stats) -> String {
    format!(
        "{} completed, {} failed, {} panicked, {} cancelled, {} timed out",
        stats.completed, stats.failed, stats.panicked, stats.cancelled, stats.timed_out
    )
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
