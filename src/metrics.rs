//! Numbers for the `metrics` facade.

use ::metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::delegator::Delegator;
use crate::latency::{Latencies, Latency};
use crate::state::JobState;
use crate::tokens::Token;

const SUBMITTED: &str = "workpath_jobs_submitted_total";
const REJECTED: &str = "workpath_jobs_rejected_total";
const STUCK: &str = "workpath_jobs_stuck";
const RETRIED: &str = "workpath_jobs_retried_total";
const DROPPED: &str = "workpath_jobs_dropped_total";
const FINISHED: &str = "workpath_jobs_finished_total";
const JOBS: &str = "workpath_jobs";
const PLACES: &str = "workpath_queue_places";
const WORKERS: &str = "workpath_workers";
const QUEUE_TIME: &str = "workpath_queue_seconds";
const RUN_TIME: &str = "workpath_run_seconds";
const ROUND_TRIP_TIME: &str = "workpath_round_trip_seconds";

/// The part of the jobs that a quantile is of, with its label.
const QUANTILES: [(f64, &str); 4] = [(0.5, "0.5"), (0.9, "0.9"), (0.99, "0.99"), (1.0, "1")];

impl Delegator {
    /// Tells the recorder of the [`metrics`](::metrics) facade what the numbers of
    /// [`record_metrics`](Delegator::record_metrics) mean. Once for all delegators, after the recorder is installed. Needs
    /// the feature `metrics`.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Delegator;
    ///
    /// Delegator::describe_metrics();
    /// ```
    pub fn describe_metrics() {
        describe_counter!(SUBMITTED, Unit::Count, "Jobs that were accepted");
        describe_counter!(REJECTED, Unit::Count, "Submissions that were refused");
        describe_counter!(RETRIED, Unit::Count, "Attempts that were followed by another");
        describe_counter!(DROPPED, Unit::Count, "Jobs that gave their places in a full queue to others");
        describe_counter!(FINISHED, Unit::Count, "Jobs that have ended, by their state");
        describe_gauge!(JOBS, Unit::Count, "Jobs that have not ended, by their state");
        describe_gauge!(PLACES, Unit::Count, "Places that jobs take in the queue, by their priority");
        describe_gauge!(STUCK, Unit::Count, "Jobs that go on though their contexts have ended");
        describe_gauge!(WORKERS, Unit::Count, "Workers");
        describe_gauge!(QUEUE_TIME, Unit::Seconds, "Time from creation to start");
        describe_gauge!(RUN_TIME, Unit::Seconds, "Time from start to end");
        describe_gauge!(ROUND_TRIP_TIME, Unit::Seconds, "Time from creation to end");
    }

    /// Hands the numbers of this moment to the recorder of the [`metrics`](::metrics) facade. Call it as often as they are
    /// to be fresh: before every scrape, or every few seconds. There is no thread that does. Needs the feature `metrics`.
    ///
    /// Each number has the label `delegator`, the [thread name](crate::Builder::thread_name) of the builder. Counters are
    /// absolute, so it does not matter how often this is called.
    ///
    /// | name | kind | more labels | of |
    /// |---|---|---|---|
    /// | `workpath_jobs_submitted_total` | counter | | [`Stats::submitted`](crate::Stats::submitted) |
    /// | `workpath_jobs_rejected_total` | counter | | [`Stats::rejected`](crate::Stats::rejected) |
    /// | `workpath_jobs_retried_total` | counter | | [`Stats::retried`](crate::Stats::retried) |
    /// | `workpath_jobs_dropped_total` | counter | | [`Stats::dropped`](crate::Stats::dropped) |
    /// | `workpath_jobs_finished_total` | counter | `state`: `completed`, `failed`, `panicked`, `cancelled`, `timed_out` | [`Stats`](crate::Stats) |
    /// | `workpath_jobs` | gauge | `state`: `scheduled`, `queued`, `running` | [`Stats`](crate::Stats) |
    /// | `workpath_jobs_stuck` | gauge | | [`Stats::stuck`](crate::Stats::stuck), of those that run |
    /// | `workpath_queue_places` | gauge | `priority`: `high`, `normal`, `low` | [`Stats::places`](crate::Stats::places) |
    /// | `workpath_workers` | gauge | | [`Delegator::workers`] |
    /// | `workpath_queue_seconds` | gauge | `quantile`: `0.5`, `0.9`, `0.99`, `1` | [`Latencies::queue_time`] |
    /// | `workpath_run_seconds` | gauge | as above | [`Latencies::run_time`] |
    /// | `workpath_round_trip_seconds` | gauge | as above | [`Latencies::round_trip_time`] |
    ///
    /// The last three are there if the builder asked for [latencies](crate::Builder::latencies), and are of all jobs since
    /// the beginning. If it asked for them [by name](crate::Builder::latencies_by_name), they are there once more for each
    /// name of a job, with the label `job`; the names for which there was no room share an empty one.
    ///
    /// Costs what [`stats`](Delegator::stats) and [`latencies`](Delegator::latencies) cost, and some 20 lookups of the
    /// recorder, 12 more for each name. Nothing is locked while the recorder is called.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).latencies(true).build()?;
    /// delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// delegator.record_metrics(); // goes nowhere until a recorder is installed
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn record_metrics(&self) {
        let stats = self.stats();
        let engine = self.submitter().engine;
        let first = engine.slots.first().map_or("", |slot| &*slot.thread_name);
        let delegator = first.strip_suffix("-0").unwrap_or(first).to_owned();

        counter!(SUBMITTED, "delegator" => delegator.clone()).absolute(stats.submitted);
        counter!(REJECTED, "delegator" => delegator.clone()).absolute(stats.rejected);
        counter!(RETRIED, "delegator" => delegator.clone()).absolute(stats.retried);
        counter!(DROPPED, "delegator" => delegator.clone()).absolute(stats.dropped);
        for (state, count) in [
            (JobState::Completed, stats.completed),
            (JobState::Failed, stats.failed),
            (JobState::Panicked, stats.panicked),
            (JobState::Cancelled, stats.cancelled),
            (JobState::TimedOut, stats.timed_out),
        ] {
            counter!(FINISHED, "delegator" => delegator.clone(), "state" => state.token()).absolute(count);
        }
        for (state, count) in [
            (JobState::Scheduled, stats.scheduled),
            (JobState::Queued, stats.queued),
            (JobState::Running, stats.running),
        ] {
            gauge!(JOBS, "delegator" => delegator.clone(), "state" => state.token()).set(count as f64);
        }
        gauge!(STUCK, "delegator" => delegator.clone()).set(stats.stuck as f64);
        let places = stats.places;
        for (priority, count) in [("high", places.high), ("normal", places.normal), ("low", places.low)] {
            gauge!(PLACES, "delegator" => delegator.clone(), "priority" => priority).set(count as f64);
        }
        gauge!(WORKERS, "delegator" => delegator.clone()).set(engine.workers as f64);

        record_latencies(&self.latencies(), &[("delegator", delegator.clone())]);
        let by_name = self.latencies_by_name();
        let others = (String::new(), by_name.others);
        for (name, latencies) in by_name.names.into_iter().chain([others]) {
            let labels = [("delegator", delegator.clone()), ("job", name)];
            record_latencies(&latencies, &labels);
        }
    }
}

fn record_latencies(latencies: &Latencies, labels: &[(&'static str, String)]) {
    record_latency(QUEUE_TIME, &latencies.queue_time, labels);
    record_latency(RUN_TIME, &latencies.run_time, labels);
    record_latency(ROUND_TRIP_TIME, &latencies.round_trip_time, labels);
}

/// What nobody asked for, and what has not happened yet, is left out.
fn record_latency(name: &'static str, latency: &Latency, labels: &[(&'static str, String)]) {
    if latency.count() == 0 {
        return;
    }
    for (part, label) in QUANTILES {
        let mut labels = labels.to_vec();
        labels.push(("quantile", label.to_owned()));
        gauge!(name, &labels).set(latency.quantile(part).as_secs_f64());
    }
}
