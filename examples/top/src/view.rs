//! The picture: eighty columns and twenty-four lines are enough for four workers and the last failures.

use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, TableState};
use workpath::{Checkpoint, JobId, JobState, Latency, WorkerStatus};

use crate::look::Look;

/// A job that runs for this long is worth a colour.
const SLOW: Duration = Duration::from_secs(5);

/// How long the answer to a key is shown.
const SAID: Duration = Duration::from_secs(4);

const FADED: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const WRONG: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const DOUBTFUL: Style = Style::new().fg(Color::Yellow);
const GOOD: Style = Style::new().fg(Color::Green);

/// What is not the delegator's: the selection, and what was said last.
#[derive(Default)]
pub(crate) struct View {
    table: TableState,
    said: Option<(Instant, String)>,
    draining: bool,
    told: Vec<JobId>,
}

impl View {
    /// Goes up or down in the list of workers.
    pub(crate) fn select(&mut self, look: &Look, step: isize) {
        let last = look.workers.len().saturating_sub(1);
        let place = match self.table.selected() {
            None => 0,
            Some(place) => place.saturating_add_signed(step).min(last),
        };
        self.table.select(Some(place));
    }

    /// The job of the selected worker.
    pub(crate) fn selected(&self, look: &Look) -> Option<(JobId, String)> {
        let worker = look.workers.get(self.table.selected()?)?;
        let id = worker.running?;
        Some((id, worker.job_name.as_deref().unwrap_or_default().to_owned()))
    }

    /// That job was cancelled.
    pub(crate) fn told(&mut self, id: JobId, name: &str) {
        self.told.push(id);
        self.say(format!("{name} was told to stop"));
    }

    pub(crate) fn say(&mut self, text: String) {
        self.said = Some((Instant::now(), text));
    }

    pub(crate) fn drain(&mut self) {
        self.draining = true;
    }

    pub(crate) fn draw(&mut self, frame: &mut Frame<'_>, look: &Look) {
        self.told.retain(|id| look.workers.iter().any(|worker| worker.running == Some(*id)));
        // The workers come first: where there is no room for all, the list of failures keeps five lines, and where there is
        // no room for that either, the numbers go.
        let height = frame.area().height;
        let workers = u16::try_from(look.workers.len()).unwrap_or(u16::MAX).saturating_add(3);
        let workers = workers.min(height.saturating_sub(13).max(7));
        let numbers = if height >= workers + 8 { 6 } else { 0 };
        let [title, numbers, jobs, failures, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(numbers),
            Constraint::Length(workers),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.title(frame, title, look);
        frame.render_widget(Paragraph::new(lines(look, numbers.width)), numbers);
        self.workers(frame, jobs, look);
        draw_failures(frame, failures, look);
        self.keys(frame, keys);
    }

    fn title(&self, frame: &mut Frame<'_>, area: Rect, look: &Look) {
        let left = look.stats.running + look.stats.queued + look.stats.scheduled;
        let mut line = vec![
            Span::styled(" workpath top ", BOLD.add_modifier(Modifier::REVERSED)),
            Span::raw(format!("  {} workers, up {}", look.workers.len(), time(look.up))),
        ];
        let overdue = look.workers.iter().filter(|worker| worker.overdue.is_some()).count();
        if overdue > 0 {
            line.push(Span::styled(format!("   {overdue} past its deadline"), WRONG));
        }
        if self.draining {
            let text = if left > 0 { format!("   draining, {left} left") } else { "   drained".to_owned() };
            line.push(Span::styled(text, DOUBTFUL));
        }
        frame.render_widget(Line::from(line), area);
    }

    fn workers(&mut self, frame: &mut Frame<'_>, area: Rect, look: &Look) {
        let header =
            Row::new(["", "worker", "job", "for", "progress", "ago", "last checkpoint"]).style(FADED);
        let rows = look.workers.iter().map(|worker| self.worker(worker));
        let widths = [
            Constraint::Length(1),
            Constraint::Length(6),
            Constraint::Length(10),
            Constraint::Length(6),
            Constraint::Length(14),
            Constraint::Length(6),
            Constraint::Fill(1),
        ];
        let table = Table::new(rows, widths)
            .header(header)
            .block(Block::bordered().title(" workers "))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        frame.render_stateful_widget(table, area, &mut self.table);
    }

    fn worker(&self, worker: &WorkerStatus) -> Row<'static> {
        let index = worker.index.to_string();
        let (Some(id), Some(age)) = (worker.running, worker.running_for) else {
            return Row::new(["".to_owned(), index, "idle".to_owned()]).style(FADED);
        };
        let (mark, style) = match worker.overdue {
            Some(_) => ("!", WRONG),
            None if age >= SLOW => ("~", DOUBTFUL),
            None => (" ", Style::new()),
        };
        let progress = match (worker.overdue, worker.progress) {
            (Some(overdue), _) => format!("{} overdue", time(overdue)),
            (None, Some(progress)) if progress.total > 0 => bar(progress.done, progress.total),
            (None, Some(progress)) => progress.done.to_string(),
            (None, None) => String::new(),
        };
        let (ago, mut text) = match &worker.checkpoint {
            // It is a moment later than when the worker was looked at.
            Some(checkpoint) => (time(checkpoint.age().min(age)), place(checkpoint)),
            None => (String::new(), String::new()),
        };
        if self.told.contains(&id) {
            text.insert_str(0, "[told to stop] ");
        }
        let name = worker.job_name.as_deref().unwrap_or_default().to_owned();
        let cells = [mark.to_owned(), index, name, time(age), progress, ago, text];
        Row::new(cells.map(Cell::from)).style(style)
    }

    fn keys(&self, frame: &mut Frame<'_>, area: Rect) {
        let mut line = Vec::new();
        for (key, meaning) in [("↑↓", "select"), ("c", "cancel the job"), ("d", "drain"), ("q", "quit")] {
            line.push(Span::styled(format!(" {key} "), BOLD.add_modifier(Modifier::REVERSED)));
            line.push(Span::raw(format!(" {meaning}  ")));
        }
        if let Some((_, text)) = self.said.as_ref().filter(|(at, _)| at.elapsed() < SAID) {
            line.push(Span::styled(format!(" {text}"), DOUBTFUL));
        }
        frame.render_widget(Line::from(line), area);
    }
}

/// The numbers.
fn lines(look: &Look, width: u16) -> Vec<Line<'static>> {
    let seconds = look.window.as_secs_f64().max(0.001);
    let rate = |count: u64| format!("{:.1}", count as f64 / seconds);
    let (now, lately) = (&look.stats, &look.lately);
    let wrong = lately.failed + lately.panicked + lately.timed_out;

    let head = format!("{} waiting, {} running, {} refused  ", now.queued, now.running, now.rejected);
    let room = usize::from(width).saturating_sub(10 + head.len() + 1);
    let counts = [
        (now.completed, "completed", GOOD),
        (now.failed, "failed", WRONG),
        (now.panicked, "panicked", WRONG),
        (now.timed_out, "timed out", WRONG),
        (now.cancelled, "cancelled", DOUBTFUL),
    ];
    let mut totals = vec![label("so far")];
    for (count, name, style) in counts.into_iter().filter(|(count, ..)| *count > 0) {
        totals.push(Span::styled(format!("{count} {name}  "), style));
    }
    vec![
        Line::default(),
        Line::from(vec![label("queue"), Span::raw(head), Span::styled(curve(&look.depths, room), GOOD)]),
        Line::from(vec![
            label("per s"),
            Span::raw(format!("{} in, {} completed, ", rate(lately.submitted), rate(lately.completed))),
            Span::raw(format!("{} not, {} refused", rate(wrong), rate(lately.rejected))),
        ]),
        Line::from(totals),
        quantiles("waited", &look.latencies.queue_time, look.window),
        quantiles("ran", &look.latencies.run_time, look.window),
    ]
}

fn quantiles(name: &'static str, latency: &Latency, window: Duration) -> Line<'static> {
    let parts =
        [("p50", latency.p50()), ("p90", latency.p90()), ("p99", latency.p99()), ("max", latency.max())];
    let mut line = vec![label(name)];
    for (name, value) in parts {
        line.push(Span::styled(format!("{name} "), FADED));
        line.push(Span::raw(format!("{:<9}", time(value))));
    }
    line.push(Span::styled(format!("in the last {:.0} s", window.as_secs_f64()), FADED));
    Line::from(line)
}

fn label(name: &'static str) -> Span<'static> {
    Span::styled(format!(" {name:<9}"), FADED)
}

fn draw_failures(frame: &mut Frame<'_>, area: Rect, look: &Look) {
    let rows = look.failures.iter().map(|(age, record)| {
        let error = record.error().map(ToString::to_string).unwrap_or_default();
        let style = if record.state() == JobState::Panicked { WRONG } else { Style::new() };
        let worker = record.worker().map_or("-".to_owned(), |worker| worker.to_string());
        let ago = if *age < Duration::from_millis(1) { "now".to_owned() } else { time(*age) };
        let cells = [ago, record.state().to_string(), worker, record.name().to_owned(), error];
        Row::new(cells.map(Cell::from)).style(style)
    });
    let widths = [
        Constraint::Length(7),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Length(11),
        Constraint::Fill(1),
    ];
    let title = match look.missed {
        0 => " what did not complete, the newest first ".to_owned(),
        missed => format!(" what did not complete, the newest first; {missed} events were missed "),
    };
    let table = Table::new(rows, widths)
        .header(Row::new(["ago", "state", "worker", "job", "why"]).style(FADED))
        .block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

/// What was said, and from where, if there is room.
fn place(checkpoint: &Checkpoint) -> String {
    let file = checkpoint.file().rsplit(['/', '\\']).next().unwrap_or_default();
    format!("{}  {file}:{}", checkpoint.text(), checkpoint.line())
}

/// Eight cells and the share.
fn bar(done: u64, total: u64) -> String {
    let share = (done as f64 / total as f64).clamp(0.0, 1.0);
    let full = (share * 8.0).floor() as usize;
    format!("{}{} {:>3.0} %", "█".repeat(full), "░".repeat(8 - full), share * 100.0)
}

/// The last numbers as columns, the newest on the right. The highest fills its cell.
fn curve(depths: &[usize], room: usize) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &depths[depths.len().saturating_sub(room)..];
    let most = shown.iter().copied().max().unwrap_or(0).max(7);
    shown.iter().map(|depth| LEVELS[depth * 7 / most]).collect()
}

/// Three digits at the most, and a unit.
fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match time.as_micros() {
        0..1_000 => format!("{} µs", time.as_micros()),
        1_000..1_000_000 => format!("{} ms", time.as_millis()),
        1_000_000..10_000_000 => format!("{:.1} s", time.as_secs_f64()),
        _ if seconds < 100 => format!("{seconds} s"),
        _ if seconds < 6_000 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::Watch;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use workpath::{Delegator, Job};

    /// The screen, line by line.
    fn shown(view: &mut View, look: &Look, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame, look)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let cells = buffer.content().chunks(usize::from(width));
        cells.map(|line| line.iter().map(|cell| cell.symbol()).collect()).collect()
    }

    /// A delegator with a hung job, one that says how far it is, one that panicked, and one that failed.
    fn busy() -> (Delegator, crossbeam_channel::Sender<()>, Look) {
        let delegator = Delegator::builder().workers(3).latencies(true).build().unwrap();
        let mut watch = Watch::new(&delegator);
        let (release, gate) = crossbeam_channel::bounded::<()>(0);
        let (at, started) = crossbeam_channel::bounded(2);
        for (name, limit) in [("hung", 1), ("slow", 60_000)] {
            let (gate, at) = (gate.clone(), at.clone());
            let job = Job::new(name, move |ctx| {
                ctx.checkpoint("row 41200")?;
                ctx.progress(1, 4);
                at.send(()).unwrap();
                let _ = gate.recv();
                Ok(Vec::new())
            });
            let _ = delegator.submit(job.with_timeout(Duration::from_millis(limit * 100))).unwrap();
        }
        for _ in 0..2 {
            started.recv().unwrap();
        }
        delegator.submit(Job::new("ugly", |_| panic!("no such field"))).unwrap().wait();
        delegator.submit(Job::new("bad", |_| Err("no disk".into()))).unwrap().wait();
        while delegator.workers().iter().all(|worker| worker.overdue.is_none()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let look = watch.look(&delegator);
        (delegator, release, look)
    }

    #[test]
    fn what_is_wrong_is_seen_at_once_on_a_small_terminal() {
        let (_delegator, release, look) = busy();
        let lines = shown(&mut View::default(), &look, 80, 24);
        let line = |text: &str| {
            lines.iter().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {lines:#?}"))
        };
        assert!(lines[0].contains("3 workers") && lines[0].contains("1 past its deadline"), "{lines:#?}");
        assert!(line(" hung ").contains("!") && line(" hung ").contains("overdue"), "{lines:#?}");
        assert!(line(" slow ").contains("██░░░░░░  25 % "), "{lines:#?}");
        assert!(line(" idle ").starts_with("│"), "{lines:#?}");
        assert!(line("ugly").contains("panicked") && line("ugly").contains("no such field"), "{lines:#?}");
        assert!(line("bad").contains("failed") && line("bad").contains("no disk"), "{lines:#?}");
        assert!(line("so far").contains("1 failed  1 panicked"), "{lines:#?}");
        assert!(line("queue").contains("0 waiting, 2 running"), "{lines:#?}");
        assert!(lines[23].contains(" q  quit"), "{lines:#?}");
        drop(release);
    }

    #[test]
    fn a_terminal_of_any_size_is_drawn_on() {
        let (_delegator, release, look) = busy();
        for (width, height) in [(1, 1), (3, 40), (20, 5), (40, 12), (79, 23), (300, 100)] {
            assert_eq!(shown(&mut View::default(), &look, width, height).len(), usize::from(height));
        }
        let lines = shown(&mut View::default(), &look, 40, 12).concat();
        assert!(lines.contains("hung") && lines.contains("slow"), "{lines}");
        drop(release);
    }

    #[test]
    fn the_selection_stays_in_the_list_and_names_a_job() {
        let (_delegator, release, look) = busy();
        let mut view = View::default();
        assert!(view.selected(&look).is_none());
        view.select(&look, -1);
        let mut names = Vec::new();
        for _ in 0..4 {
            if let Some((id, name)) = view.selected(&look) {
                view.told(id, &name);
                names.push(name);
            }
            view.select(&look, 1);
        }
        names.sort();
        // The last worker that is there stays selected.
        assert!(names.contains(&"hung".to_owned()) && names.contains(&"slow".to_owned()), "{names:?}");
        let lines = shown(&mut view, &look, 80, 24);
        assert!(lines.iter().filter(|line| line.contains("[told to stop]")).count() == 2, "{lines:#?}");
        drop(release);
    }

    #[test]
    fn times_and_curves_keep_their_width() {
        for (millis, text) in
            [(0, "0 µs"), (999, "999 ms"), (1_500, "1.5 s"), (99_999, "99 s"), (100_000, "1 min")]
        {
            assert_eq!(time(Duration::from_millis(millis)), text);
        }
        assert_eq!(curve(&[0, 7, 14], 2), "▄█");
        assert_eq!(curve(&[], 5), "");
        assert_eq!(bar(3, 2), "████████ 100 %");
    }
}
