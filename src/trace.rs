//! Records as a timeline, in the Chrome trace event format.

use std::fmt;
use std::io::{self, Write};

use crate::clock::Tick;
use crate::error::Error;
use crate::panics::{contain, discard};
use crate::record::JobRecord;
use crate::registry::Registry;
use crate::retry::Attempt;
use crate::state::JobState;

/// The lane of the jobs that wait. Zero would not do: a viewer takes it for the first lane of the process, which is
/// this one. Those of the workers follow.
const QUEUE: u64 = 1;

impl Registry {
    /// Writes the records as a timeline, in the Chrome trace event format, for <https://ui.perfetto.dev> or
    /// `chrome://tracing`. Needs the feature `trace`.
    ///
    /// Every worker has a lane, with a slice for each job that it ran, or each attempt of it; a job that ran inside
    /// another lies below it. The time that a job waited is a slice of its own, on the lane `queue`. Slices carry the
    /// id, the state and the error of the job; its last checkpoint is an instant on them. `chrome://tracing` shows the
    /// states as colours. Times count from the creation of the oldest job. What the registry does not retain is not in
    /// the trace, and neither is what is not finished.
    ///
    /// The records are collected as [`records`](Registry::records) does; workers do not wait for the writing. It writes in
    /// small pieces: give it a [`BufWriter`](std::io::BufWriter).
    ///
    /// # Errors
    ///
    /// Those of the writer, which then has a part of the trace.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(2).build()?;
    /// delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// let mut trace = Vec::new(); // or a file
    /// delegator.registry().write_trace(&mut trace)?;
    /// assert!(String::from_utf8(trace)?.contains("\"work\""));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write_trace(&self, out: &mut impl Write) -> io::Result<()> {
        let records = self.records();
        let result = write(&records, out);
        for record in records {
            discard("a record", record);
        }
        result
    }
}

/// What stands for the index of a worker where there is none.
const CALLERS: usize = usize::MAX;

/// A job on a worker.
struct Slice<'a> {
    worker: usize,
    start: Tick,
    end: Tick,
    record: &'a JobRecord,
    state: JobState,
    error: Option<Error>,
}

fn write(records: &[JobRecord], out: &mut impl Write) -> io::Result<()> {
    let origin = records.iter().map(|record| record.ticks().0).min().unwrap_or(Tick::NEVER);
    let micros = |tick: Tick| Micros(tick.since(origin).map_or(0, |time| time.as_nanos()));
    let mut slices = Vec::new();

    out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
    write!(out, r#"{{"ph":"M","name":"process_name","pid":1,"args":{{"name":"workpath"}}}}"#)?;
    write_lane(out, QUEUE, "queue")?;
    for record in records {
        let (created, started, completed) = record.ticks();
        let left = started.unwrap_or(completed);
        let (name, id) = (Text(record.name()), record.id());
        for (phase, at) in [("b", created), ("e", left.max(created))] {
            let ts = micros(at);
            write!(
                out,
                ",\n{{\"ph\":\"{phase}\",\"cat\":\"queue\",\"id\":\"{id}\",\"name\":{name},\"pid\":1,\"tid\":{QUEUE},\"ts\":{ts}"
            )?;
            if started.is_none() {
                write!(out, ",\"cname\":\"{}\"", colour(record.state()))?;
                write_args(out, record, record.state(), record.error())?;
            }
            out.write_all(b"}")?;
        }
        for attempt in record.earlier_attempts() {
            let state = if attempt.error.is_panic() { JobState::Panicked } else { JobState::Failed };
            let worker = attempt.worker.unwrap_or(CALLERS);
            let Attempt { started: start, ended: end, error, .. } = attempt;
            slices.push(Slice { worker, start, end, record, state, error: Some(error) });
        }
        if let Some(start) = started {
            let worker = record.worker().unwrap_or(CALLERS);
            let (state, error) = (record.state(), record.error().cloned());
            slices.push(Slice { worker, start, end: completed.max(start), record, state, error });
        }
    }

    // An outer slice before those inside it.
    slices.sort_by_key(|slice| (slice.worker, slice.start, std::cmp::Reverse(slice.end)));
    let mut lane = QUEUE;
    for workers in slices.chunk_by(|one, other| one.worker == other.worker) {
        lane = write_worker(out, workers, lane, &micros)?;
    }
    out.write_all(b"\n]}\n")
}

/// Names a lane, and gives it its place among the others.
fn write_lane(out: &mut impl Write, lane: u64, name: &str) -> io::Result<()> {
    for (key, value) in [
        ("thread_name", format!("\"name\":\"{name}\"")),
        ("thread_sort_index", format!("\"sort_index\":{lane}")),
    ] {
        write!(out, ",\n{{\"ph\":\"M\",\"name\":\"{key}\",\"pid\":1,\"tid\":{lane},\"args\":{{{value}}}}}")?;
    }
    Ok(())
}

/// Writes the slices of one worker to lanes after this one, and gives the last. One lane is enough while a thread runs one
/// job at a time, or one inside another.
fn write_worker(
    out: &mut impl Write,
    slices: &[Slice<'_>],
    mut last: u64,
    micros: &impl Fn(Tick) -> Micros,
) -> io::Result<u64> {
    // For each lane, its number and the ends of the slices that are open.
    let mut lanes: Vec<(u64, Vec<Tick>)> = Vec::new();
    for slice in slices {
        let fits = lanes.iter_mut().find_map(|(number, open)| {
            while open.last().is_some_and(|end| *end <= slice.start) {
                open.pop();
            }
            open.last().is_none_or(|end| slice.end <= *end).then_some((*number, open))
        });
        let lane = match fits {
            Some((number, open)) => {
                open.push(slice.end);
                number
            }
            None => {
                last += 1;
                lanes.push((last, vec![slice.end]));
                let name = match slice.worker {
                    CALLERS => "callers".to_owned(),
                    worker => format!("worker {worker}"),
                };
                write_lane(out, last, &name)?;
                last
            }
        };
        let (record, state) = (slice.record, slice.state);
        let name = Text(record.name());
        let run_time = slice.end.since(slice.start).unwrap_or_default();
        let (ts, dur) = (micros(slice.start), Micros(run_time.as_nanos()));
        write!(
            out,
            ",\n{{\"ph\":\"X\",\"cat\":\"{state}\",\"name\":{name},\"pid\":1,\"tid\":{lane},\"ts\":{ts},\"dur\":{dur},\"cname\":\"{}\"",
            colour(state)
        )?;
        write_args(out, record, state, slice.error.as_ref())?;
        out.write_all(b"}")?;
        if let Some(checkpoint) = record.checkpoint() {
            let (text, file) = (Text(checkpoint.text()), Text(checkpoint.file()));
            write!(
                out,
                ",\n{{\"ph\":\"i\",\"s\":\"t\",\"cat\":\"checkpoint\",\"name\":{text},\"pid\":1,\"tid\":{lane},\"ts\":{},\"args\":{{\"file\":{file},\"line\":{}}}}}",
                micros(checkpoint.tick()),
                checkpoint.line()
            )?;
        }
    }
    Ok(last)
}

fn write_args(
    out: &mut impl Write,
    record: &JobRecord,
    state: JobState,
    error: Option<&Error>,
) -> io::Result<()> {
    write!(out, ",\"args\":{{\"id\":\"{}\",\"state\":\"{state}\"", record.id())?;
    if let Some(error) = error {
        // What an error says of itself is user code.
        let text =
            contain(|| error.to_string()).unwrap_or_else(|panic| format!("panic in its text: {panic}"));
        write!(out, ",\"error\":{}", Text(&text))?;
    }
    if let Some(progress) = record.progress() {
        write!(out, ",\"done\":{},\"total\":{}", progress.done, progress.total)?;
    }
    if let Some(overrun) = record.overrun() {
        write!(out, ",\"overrun_us\":{}", Micros(overrun.as_nanos()))?;
    }
    out.write_all(b"}")
}

/// One of the colours that the viewer has names for.
fn colour(state: JobState) -> &'static str {
    match state {
        JobState::Completed => "good",
        JobState::Failed => "bad",
        JobState::Panicked => "terrible",
        JobState::TimedOut => "yellow",
        _ => "grey",
    }
}

/// Nanoseconds, shown as microseconds, and half a nanosecond more.
///
/// Viewers read it as a floating-point number, multiply it by a thousand and cut the rest off. Without that half this takes
/// a nanosecond off one number in ten, and a job that starts when the one before ends overlaps it: Perfetto drops it then.
struct Micros(u128);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}5", self.0 / 1000, self.0 % 1000)
    }
}

/// A text as a JSON string.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for character in self.0.chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                // Every control character, and the two line ends that are none in JSON but in JavaScript.
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    write!(f, "\\u{:04x}", u32::from(c))?;
                }
                c => fmt::Write::write_char(f, c)?,
            }
        }
        f.write_str("\"")
    }
}
