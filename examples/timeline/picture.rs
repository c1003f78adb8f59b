//! The picture: workers over time, jobs that wait, and the distribution of times.

use std::error::Error;
use std::time::Duration;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use workpath::{JobState, Latencies, Latency};

use crate::history::{History, Span};

const WIDTH: i32 = 1000;
const MARGIN: i32 = 24;
/// From the left edge of the picture to where time begins: room for names.
const LEFT: i32 = 112;
const RIGHT: i32 = WIDTH - MARGIN;
const LANES: i32 = 118;
const LANE: i32 = 40;
const LANE_GAP: i32 = 8;
/// The height of a job that never started.
const THREAD: i32 = 6;
const WAITING: i32 = 110;
const CURVES: i32 = 170;
/// From the end of a panel to the first line of the next: the labels of an axis, and a heading.
const BETWEEN: i32 = 74;
/// What a letter of the size in slices needs at the most.
const LETTER: i32 = 7;

const INK: RGBColor = RGBColor(0x1f, 0x29, 0x33);
const FADED: RGBColor = RGBColor(0x52, 0x5f, 0x6d);
const LINE: RGBColor = RGBColor(0xd5, 0xda, 0xe0);
const LANE_BACK: RGBColor = RGBColor(0xf1, 0xf4, 0xf7);
const QUEUE: RGBColor = RGBColor(0x47, 0x55, 0x69);
const RUN: RGBColor = RGBColor(0x0f, 0x76, 0x6e);
const ROUND_TRIP: RGBColor = RGBColor(0xb4, 0x53, 0x09);
const FONT: &str = "Helvetica, Arial, sans-serif";

/// All dark enough for white letters on them, and apart from each other also for those who see fewer colours.
const OUTCOMES: [(JobState, RGBColor); 5] = [
    (JobState::Completed, RGBColor(0x0f, 0x76, 0x6e)),
    (JobState::Failed, RGBColor(0xc2, 0x41, 0x0c)),
    (JobState::Panicked, RGBColor(0x83, 0x18, 0x43)),
    (JobState::TimedOut, RGBColor(0x1d, 0x4e, 0xd8)),
    (JobState::Cancelled, RGBColor(0x6b, 0x72, 0x80)),
];

type Outcome = Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub(crate) fn svg(
    history: &History,
    workers: usize,
    latencies: &Latencies,
) -> Result<String, Box<dyn Error>> {
    let unstarted = threads(history);
    let rows = unstarted.iter().map(|(row, _)| row + 1).max().unwrap_or(0);
    let lanes_end = LANES + workers as i32 * (LANE + LANE_GAP) + (rows as i32 * THREAD).max(18);
    let waiting = lanes_end + BETWEEN;
    let curves = waiting + WAITING + BETWEEN + 16;

    let mut text = String::new();
    {
        let size = (WIDTH as u32, (curves + CURVES + 52) as u32);
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE)?;
        let time = Time::of(history.end);

        let heading = format!(
            "{} jobs on {workers} workers in {}",
            history.jobs.len(),
            figure(Duration::from_secs_f64(history.end))
        );
        write(&root, &heading, (MARGIN, 30), 20, INK, HPos::Left, true)?;
        legend(&root, history)?;

        write(&root, "Who ran what", (MARGIN, LANES - 18), 14, INK, HPos::Left, true)?;
        time.draw(&root, LANES, lanes_end)?;
        lanes(&root, &time, history, workers)?;
        for (row, job) in &unstarted {
            let y = LANES + workers as i32 * (LANE + LANE_GAP) + *row as i32 * THREAD;
            thread(&root, &time, job, y)?;
        }
        let y = LANES + workers as i32 * (LANE + LANE_GAP) + 6;
        write(&root, "never started", (LEFT - 12, y), 12, INK, HPos::Right, false)?;

        queue(&root, &time, history, waiting)?;
        distributions(&root, latencies, curves)?;
        root.present()?;
    }
    Ok(text)
}

fn legend(root: &Area<'_>, history: &History) -> Outcome {
    let mut x = MARGIN;
    for (state, colour) in OUTCOMES {
        let text = format!("{} {state}", history.count(state));
        root.draw(&Rectangle::new([(x, 54), (x + 14, 68)], colour.filled()))?;
        write(root, &text, (x + 21, 61), 13, INK, HPos::Left, false)?;
        x += 21 + text.len() as i32 * 8 + 20;
    }
    Ok(())
}

/// The axis that workers and queue share.
struct Time {
    end: f64,
    step: f64,
}

impl Time {
    fn of(end: f64) -> Time {
        let end = end.max(1e-6);
        Time { end, step: nice(end / 12.0) }
    }

    fn x(&self, seconds: f64) -> i32 {
        LEFT + (seconds / self.end * f64::from(RIGHT - LEFT)).round() as i32
    }

    fn draw(&self, root: &Area<'_>, top: i32, bottom: i32) -> Outcome {
        for n in 0..=(self.end / self.step) as i32 {
            let seconds = f64::from(n) * self.step;
            let x = self.x(seconds);
            root.draw(&PathElement::new([(x, top - 4), (x, bottom + 4)], LINE.stroke_width(1)))?;
            let text = (seconds * 1000.0 * 1000.0).round() / 1000.0;
            write(root, &text.to_string(), (x, bottom + 14), 12, FADED, HPos::Center, false)?;
        }
        write(root, "ms", (LEFT - 12, bottom + 14), 12, FADED, HPos::Right, false)
    }
}

fn lanes(root: &Area<'_>, time: &Time, history: &History, workers: usize) -> Outcome {
    for worker in 0..workers {
        let y = LANES + worker as i32 * (LANE + LANE_GAP);
        root.draw(&Rectangle::new([(LEFT, y), (RIGHT, y + LANE)], LANE_BACK.filled()))?;
        write(root, &format!("worker {worker}"), (LEFT - 12, y + LANE / 2), 12, INK, HPos::Right, false)?;
        // Outer jobs come before those inside them.
        for job in history.jobs.iter().filter(|job| job.worker == Some(worker)) {
            slice(root, time, job, y)?;
        }
    }
    Ok(())
}

fn slice(root: &Area<'_>, time: &Time, job: &Span, lane: i32) -> Outcome {
    // Below the name of the job that it runs inside of.
    let inset = if job.depth == 0 { 0 } else { 14 + 4 * job.depth as i32 };
    let (top, bottom) = (lane + inset.min(LANE - 8), lane + LANE - if job.depth == 0 { 0 } else { 3 });
    let (from, to) = (time.x(job.left), time.x(job.completed));
    let to = to.max(from + 2);
    root.draw(&Rectangle::new([(from, top), (to, bottom)], colour(job.state).filled()))?;
    root.draw(&Rectangle::new([(from, top), (to, bottom)], WHITE.stroke_width(1)))?;
    let width = job.name.chars().count() as i32 * LETTER;
    if width <= to - from - 8 {
        let y = if job.depth == 0 { top + 9 } else { (top + bottom) / 2 };
        write(root, &job.name, (from + 5, y), 11, WHITE, HPos::Left, false)?;
    }
    Ok(())
}

/// The jobs that never started, each in the first row that is free.
fn threads(history: &History) -> Vec<(usize, &Span)> {
    let mut rows: Vec<f64> = Vec::new();
    let mut jobs: Vec<&Span> = history.jobs.iter().filter(|job| job.worker.is_none()).collect();
    jobs.sort_by(|a, b| a.created.total_cmp(&b.created));
    let placed = jobs.into_iter().map(|job| {
        let row = rows.iter().position(|end| *end < job.created).unwrap_or(rows.len());
        rows.resize(rows.len().max(row + 1), 0.0);
        rows[row] = job.completed;
        (row, job)
    });
    placed.collect()
}

/// A job that waited for nothing: a thread with an end.
fn thread(root: &Area<'_>, time: &Time, job: &Span, y: i32) -> Outcome {
    let (from, to, y) = (time.x(job.created), time.x(job.completed), y + THREAD / 2);
    root.draw(&PathElement::new([(from, y), (to, y)], colour(job.state).stroke_width(2)))?;
    root.draw(&Circle::new((to, y), 3, colour(job.state).filled()))?;
    Ok(())
}

fn queue(root: &Area<'_>, time: &Time, history: &History, top: i32) -> Outcome {
    let steps = history.waiting();
    let most = steps.iter().map(|(_, waiting)| *waiting).max().unwrap_or(0);
    write(root, "Jobs that wait", (MARGIN, top - 20), 14, INK, HPos::Left, true)?;
    let note = format!("{most} at the most");
    write(root, &note, (RIGHT, top - 20), 12, FADED, HPos::Right, false)?;

    let step = nice(most.max(1) as f64 / 4.0).max(1.0);
    let end = (most.max(1) as f64 / step).ceil() * step;
    let bottom = top + WAITING;
    let y = |waiting: f64| bottom - (waiting / end * f64::from(WAITING)).round() as i32;
    time.draw(root, top, bottom)?;
    for n in 0..=(end / step).round() as i32 {
        let waiting = f64::from(n) * step;
        let y = y(waiting);
        root.draw(&PathElement::new([(LEFT, y), (RIGHT, y)], LINE.stroke_width(1)))?;
        write(root, &format!("{waiting:.0}"), (LEFT - 12, y), 12, FADED, HPos::Right, false)?;
    }

    let mut line = vec![(time.x(0.0), bottom)];
    for (seconds, waiting) in steps {
        let before = line.last().map_or(bottom, |last| last.1);
        line.extend([(time.x(seconds), before), (time.x(seconds), y(waiting as f64))]);
    }
    line.push((time.x(history.end), bottom));
    root.draw(&Polygon::new(line.clone(), QUEUE.mix(0.2)))?;
    root.draw(&PathElement::new(line, QUEUE.stroke_width(2)))?;
    Ok(())
}

fn distributions(root: &Area<'_>, latencies: &Latencies, top: i32) -> Outcome {
    let kinds = [
        ("queue time", &latencies.queue_time, QUEUE),
        ("run time", &latencies.run_time, RUN),
        ("round trip", &latencies.round_trip_time, ROUND_TRIP),
    ];
    write(root, "How long it took", (MARGIN, top - 36), 14, INK, HPos::Left, true)?;
    let note = "share of the jobs that took this long or less";
    write(root, note, (LEFT, top - 17), 12, FADED, HPos::Left, false)?;

    // Powers of ten, from the shortest time to the longest.
    let log = |time: Duration| time.as_secs_f64().max(1e-9).log10();
    let known = || kinds.iter().filter(|(_, latency, _)| latency.count() > 0);
    let first = known().map(|(_, latency, _)| log(latency.quantile(0.0)).floor()).fold(0.0, f64::min);
    let last = known().map(|(_, latency, _)| log(latency.max()).ceil()).fold(first + 1.0, f64::max);
    let right = LEFT + 470;
    let x = |time: Duration| {
        LEFT + ((log(time) - first) / (last - first) * f64::from(right - LEFT)).round() as i32
    };
    let bottom = top + CURVES;
    let y = |share: f64| bottom - (share * f64::from(CURVES)).round() as i32;

    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        root.draw(&PathElement::new([(LEFT, y(share)), (right, y(share))], LINE.stroke_width(1)))?;
        let text = format!("{:.0} %", share * 100.0);
        write(root, &text, (LEFT - 12, y(share)), 12, FADED, HPos::Right, false)?;
    }
    for power in first as i32..=last as i32 {
        let time = Duration::from_secs_f64(10_f64.powi(power));
        root.draw(&PathElement::new([(x(time), top - 4), (x(time), bottom + 4)], LINE.stroke_width(1)))?;
        write(root, &unit(time), (x(time), bottom + 14), 12, FADED, HPos::Center, false)?;
    }
    for (_, latency, colour) in known() {
        let shares = (0..=400).map(|n| f64::from(n) / 400.0);
        let line: Vec<_> = shares.map(|share| (x(latency.quantile(share)), y(share))).collect();
        root.draw(&PathElement::new(line, colour.stroke_width(2)))?;
        for share in MARKS {
            root.draw(&Circle::new((x(latency.quantile(share)), y(share)), 4, colour.filled()))?;
        }
    }
    table(root, &kinds, (right + 36, top))
}

/// The quantiles with a mark on their curve.
const MARKS: [f64; 3] = [0.5, 0.9, 0.99];

fn table(root: &Area<'_>, kinds: &[(&str, &Latency, RGBColor)], (left, top): (i32, i32)) -> Outcome {
    let column = |n: i32| RIGHT - (3 - n) * 68;
    for (n, text) in (0..).zip(["p50", "p90", "p99", "max"]) {
        write(root, text, (column(n), top + 12), 12, FADED, HPos::Right, false)?;
    }
    for (n, (name, latency, colour)) in (0..).zip(kinds) {
        let y = top + 42 + n * 30;
        root.draw(&PathElement::new([(left, y - 15), (RIGHT, y - 15)], LINE.stroke_width(1)))?;
        root.draw(&Circle::new((left + 5, y), 4, colour.filled()))?;
        write(root, name, (left + 16, y), 12, INK, HPos::Left, false)?;
        let times = MARKS.map(|share| latency.quantile(share)).into_iter().chain([latency.max()]);
        for (n, time) in (0..).zip(times) {
            write(root, &figure(time), (column(n), y), 12, INK, HPos::Right, false)?;
        }
    }
    Ok(())
}

fn colour(state: JobState) -> RGBColor {
    OUTCOMES.iter().find(|(other, _)| *other == state).map_or(INK, |(_, colour)| *colour)
}

/// The next of 1, 2, 5, 10, 20, ... times a power of ten.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|nice| *nice >= value)
        .unwrap_or(10.0 * power)
}

/// Three digits, and a unit.
fn figure(time: Duration) -> String {
    let (value, unit) = scale(time);
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {unit}")
}

fn unit(time: Duration) -> String {
    let (value, unit) = scale(time);
    format!("{value:.0} {unit}")
}

fn scale(time: Duration) -> (f64, &'static str) {
    let seconds = time.as_secs_f64();
    if seconds >= 1.0 {
        (seconds, "s")
    } else if seconds >= 1e-3 {
        (seconds * 1e3, "ms")
    } else {
        (seconds * 1e6, "µs")
    }
}

fn write(
    root: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: i32,
    colour: RGBColor,
    side: HPos,
    bold: bool,
) -> Outcome {
    let font = FontDesc::from((FONT, size));
    let font = if bold { font.style(FontStyle::Bold) } else { font };
    let style = TextStyle::from(font).color(&colour).pos(Pos::new(side, VPos::Center));
    root.draw(&Text::new(text, at, style))?;
    Ok(())
}
