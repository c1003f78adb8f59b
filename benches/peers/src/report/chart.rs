//! The chart: one panel of bars per workload.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use peers::stats::figure;

use super::{Reading, Results, Row};
use crate::roster::Role;
use crate::workload::{Load, Workload};

const WIDTH: u32 = 960;
const COLUMNS: usize = 2;
const HEAD: i32 = 78;
const FOOT: i32 = 30;
const PANEL_HEAD: i32 = 54;
const BAR: i32 = 20;
const GAP: i32 = 8;
const PANEL_FOOT: i32 = 26;
/// From a panel's left edge to its bars: room for the names.
const NAMES: i32 = 168;
/// From the longest bar's end to the panel's right edge: room for its figure.
const FIGURES: i32 = 76;
const MARGIN: i32 = 24;

const INK: RGBColor = RGBColor(0x1f, 0x29, 0x33);
const FADED: RGBColor = RGBColor(0x6b, 0x77, 0x85);
const LINE: RGBColor = RGBColor(0xd5, 0xda, 0xe0);
const OWN: RGBColor = RGBColor(0x0f, 0x76, 0x6e);
const PEER: RGBColor = RGBColor(0xa9, 0xb4, 0xc0);
const OTHER: RGBColor = RGBColor(0xd9, 0xdf, 0xe5);
const FONT: &str = "Helvetica, Arial, sans-serif";

type Outcome = Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Draws all workloads of a run.
pub fn svg(results: &Results) -> Result<String, String> {
    let panels: Vec<Panel<'_>> = results
        .tables
        .iter()
        .filter(|(_, rows)| !rows.is_empty())
        .map(|(workload, rows)| Panel::new(*workload, results.load, rows))
        .collect();
    let heights: Vec<i32> =
        panels.chunks(COLUMNS).map(|row| row.iter().map(Panel::height).max().unwrap_or(0)).collect();
    let height = HEAD + FOOT + heights.iter().sum::<i32>();

    let mut text = String::new();
    draw(&mut text, height, &heights, &panels, results).map_err(|error| format!("the chart: {error}"))?;
    Ok(text)
}

fn draw(text: &mut String, height: i32, heights: &[i32], panels: &[Panel<'_>], results: &Results) -> Outcome {
    let root = SVGBackend::with_string(text, (WIDTH, height.unsigned_abs())).into_drawing_area();
    root.fill(&WHITE)?;
    write(&root, "What a job costs: workpath and its peers", (MARGIN, 30), 22, INK, HPos::Left, true)?;
    let how = format!(
        "Medians of {} interleaved rounds, whiskers from smallest to largest; two workers each",
        results.rounds
    );
    write(&root, &how, (MARGIN, 54), 13, FADED, HPos::Left, false)?;

    let width = (WIDTH as i32 - MARGIN) / COLUMNS as i32;
    let mut top = HEAD;
    for (row, height) in panels.chunks(COLUMNS).zip(heights) {
        for (column, panel) in row.iter().enumerate() {
            let left = MARGIN + column as i32 * width;
            panel.draw(&root, (left, top), width - MARGIN)?;
        }
        top += height;
    }
    write(&root, &results.machine.line(), (MARGIN, height - 18), 11, FADED, HPos::Left, false)?;
    root.present()?;
    Ok(())
}

struct Panel<'a> {
    workload: Workload,
    reading: Reading,
    /// In the order in which they are shown: the quickest first.
    rows: Vec<&'a Row>,
}

impl<'a> Panel<'a> {
    fn new(workload: Workload, load: Load, rows: &'a [Row]) -> Self {
        let reading = Reading::of(workload, load);
        let mut rows: Vec<&Row> = rows.iter().collect();
        rows.sort_by(|a, b| reading.ratio(a, b).total_cmp(&1.0));
        Self { workload, reading, rows }
    }

    fn height(&self) -> i32 {
        PANEL_HEAD + self.rows.len() as i32 * (BAR + GAP) + PANEL_FOOT
    }

    fn draw(&self, root: &Area<'_>, (left, top): (i32, i32), width: i32) -> Outcome {
        let Reading { title, main, higher_is_better, .. } = &self.reading;
        let direction = if *higher_is_better { "more is better" } else { "less is better" };
        let heading = format!("{}: {title}", self.workload.name());
        write(root, &heading, (left, top + 12), 15, INK, HPos::Left, true)?;
        write(root, &format!("{main}, {direction}"), (left, top + 31), 12, FADED, HPos::Left, false)?;

        let axis = left + NAMES;
        let length = f64::from(width - NAMES - FIGURES);
        let end = if *higher_is_better { 1.0 } else { self.scale_end() };
        let x = |value: f64| axis + (value.min(end) / end * length).round() as i32;
        let bottom = top + PANEL_HEAD + self.rows.len() as i32 * (BAR + GAP);

        for (place, row) in self.rows.iter().enumerate() {
            let y = top + PANEL_HEAD + place as i32 * (BAR + GAP);
            let own = row.entry.role == Role::Subject;
            let middle = y + BAR / 2;
            let name = if own { INK } else { FADED };
            write(root, row.entry.name, (axis - 8, middle), 13, name, HPos::Right, own)?;
            let colour = match row.entry.role {
                Role::Subject => OWN,
                Role::Peer => PEER,
                Role::Other => OTHER,
            };
            root.draw(&Rectangle::new([(axis, y), (x(row.main.median), y + BAR)], colour.filled()))?;
            whisker(root, (x(row.main.min), x(row.main.max)), middle)?;
            let text = if *higher_is_better {
                format!("{:.1} %", row.main.median * 100.0)
            } else {
                figure(row.main.median)
            };
            let right = x(row.main.max).max(x(row.main.median)) + 8;
            write(root, &text, (right, middle), 13, INK, HPos::Left, own)?;
        }
        root.draw(&PathElement::new(
            [(axis, top + PANEL_HEAD - 4), (axis, bottom - 2)],
            LINE.stroke_width(1),
        ))?;
        Ok(())
    }

    /// The longest whisker, unless one stray round would shrink everything else; it is cut there.
    fn scale_end(&self) -> f64 {
        let longest = self.rows.iter().map(|row| row.main.max).fold(0.0, f64::max);
        let slowest = self.rows.iter().map(|row| row.main.median).fold(0.0, f64::max);
        longest.min(slowest * 1.25)
    }
}

fn whisker(root: &Area<'_>, (from, to): (i32, i32), y: i32) -> Outcome {
    let style = INK.mix(0.55).stroke_width(1);
    root.draw(&PathElement::new([(from, y), (to, y)], style))?;
    for end in [from, to] {
        root.draw(&PathElement::new([(end, y - 4), (end, y + 4)], style))?;
    }
    Ok(())
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
