//! What there is to see, taken together a few times a second.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use workpath::{Delegator, Event, JobRecord, JobState, Latencies, Stats, WorkerStatus};

/// Rates and latencies are those of the last so many seconds.
const WINDOW: Duration = Duration::from_secs(10);

/// As many as a screen could show.
const FAILURES: usize = 100;
const DEPTHS: usize = 200;

/// A delegator at one moment.
pub(crate) struct Look {
    pub(crate) up: Duration,
    pub(crate) workers: Vec<WorkerStatus>,
    pub(crate) stats: Stats,
    /// How much of `stats` and of the latencies came in the last `window`.
    pub(crate) lately: Stats,
    pub(crate) latencies: Latencies,
    pub(crate) window: Duration,
    /// How many jobs waited at each look, this one last.
    pub(crate) depths: Vec<usize>,
    /// What did not complete, the newest first, with its age.
    pub(crate) failures: Vec<(Duration, JobRecord)>,
    pub(crate) missed: u64,
}

/// What it takes to tell what is new.
pub(crate) struct Watch {
    started: Instant,
    events: Receiver<Event>,
    marks: VecDeque<(Instant, Stats, Latencies)>,
    depths: VecDeque<usize>,
    failures: VecDeque<(Instant, JobRecord)>,
    missed: u64,
}

impl Watch {
    pub(crate) fn new(delegator: &Delegator) -> Watch {
        let now = Instant::now();
        Watch {
            started: now,
            events: delegator.subscribe(10_000),
            marks: VecDeque::from([(now, delegator.stats(), delegator.latencies())]),
            depths: VecDeque::new(),
            failures: VecDeque::new(),
            missed: 0,
        }
    }

    pub(crate) fn look(&mut self, delegator: &Delegator) -> Look {
        let now = Instant::now();
        for event in self.events.try_iter() {
            match event {
                Event::Finished(record) if record.state() != JobState::Completed => {
                    self.failures.push_front((now, record));
                }
                Event::Missed(count) => self.missed += count,
                _ => {}
            }
        }
        self.failures.truncate(FAILURES);

        let (stats, latencies) = (delegator.stats(), delegator.latencies());
        self.depths.push_back(stats.queued);
        if self.depths.len() > DEPTHS {
            self.depths.pop_front();
        }
        while self.marks.len() > 1 && now.duration_since(self.marks[0].0) > WINDOW {
            self.marks.pop_front();
        }
        let (since, ref earlier, ref before) = self.marks[0];
        let look = Look {
            up: now.duration_since(self.started),
            workers: delegator.workers(),
            stats,
            lately: stats.since(earlier),
            latencies: latencies.since(before),
            window: now.duration_since(since),
            depths: self.depths.iter().copied().collect(),
            failures: self.failures.iter().map(|(at, record)| (now - *at, record.clone())).collect(),
            missed: self.missed,
        };
        self.marks.push_back((now, stats, latencies));
        look
    }
}
