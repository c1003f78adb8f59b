//! The Markdown tables.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use peers::stats::figure;

use super::{Reading, Results, Row, best_peer, subject};

/// The whole report; `stem` is the name that its files share.
pub fn markdown(results: &Results, stem: &str) -> String {
    let mut text = String::new();
    write_report(&mut text, results, stem).expect("a string takes everything");
    text
}

fn write_report(text: &mut String, results: &Results, stem: &str) -> fmt::Result {
    head(text, results, stem)?;
    if cfg!(feature = "count") {
        return counts(text, results);
    }
    summary(text, results)?;
    for (workload, rows) in &results.tables {
        let reading = Reading::of(*workload, results.load);
        writeln!(text, "\n## {}: {}\n\n{}\n", workload.name(), reading.title, reading.what)?;
        times(text, &reading, rows)?;
    }
    Ok(())
}

fn head(text: &mut String, results: &Results, stem: &str) -> fmt::Result {
    let Results { machine, rounds, load, .. } = results;
    let feature = match stem.strip_prefix("benchmarks-") {
        Some(feature) => format!(" --features {feature}"),
        None => String::new(),
    };
    let title = if cfg!(feature = "count") {
        "Memory traffic per job"
    } else if cfg!(feature = "mimalloc") {
        "Benchmarks with mimalloc"
    } else {
        "Benchmarks"
    };
    writeln!(text, "# {title}\n")?;
    writeln!(text, "<!-- Written by a program; the command below writes it again. -->\n")?;
    if !cfg!(feature = "count") {
        writeln!(text, "![workpath and its peers]({stem}.svg)\n")?;
    }
    writeln!(text, "```sh\ncargo run --release --manifest-path benches/peers/Cargo.toml{feature}\n```\n")?;
    writeln!(text, "- Machine: {machine}.")?;
    writeln!(text, "- Versions: {}.", versions(results))?;
    writeln!(
        text,
        "- Every contender has its defaults and two workers, and hands each job's `Vec<u8>` ({}) to the thread that \
         submitted the job. Pools that return no result get a channel per job, `crossbeam_channel::bounded(1)`, which is \
         quicker here than `std::sync::mpsc::channel()`.",
        if load.payload == 0 { "empty".into() } else { format!("{} bytes", load.payload) },
    )?;
    writeln!(
        text,
        "- `channel + oneshot` is no pool that anybody offers but the floor: threads, a channel of closures and the \
         smallest answer there is, with nothing kept, named, bounded in time or caught. It is left out when the best peer \
         is looked for."
    )?;
    writeln!(
        text,
        "- `workpath` keeps its last 1,024 records meanwhile, as it does by default. Results are taken with `wait`, which \
         shares the payload; `join` would copy what the registry retains."
    )?;
    writeln!(
        text,
        "- {rounds} rounds in one process; in each round every contender runs once, and each round begins with the next \
         one. Figures are medians, with the smallest and the largest behind them."
    )
}

fn versions(results: &Results) -> String {
    let entries = results.tables.iter().flat_map(|(_, rows)| rows).map(|row| row.entry);
    let named: BTreeMap<&str, &str> = entries.map(|entry| (entry.source, entry.version())).collect();
    let list: Vec<String> = named.into_iter().map(|(name, version)| format!("{name} {version}")).collect();
    list.join(", ")
}

fn summary(text: &mut String, results: &Results) -> fmt::Result {
    writeln!(text, "\n| workload | | workpath | best peer | | time against it |\n|---|---|--:|--:|---|--:|")?;
    for (workload, rows) in &results.tables {
        let reading = Reading::of(*workload, results.load);
        let (Some(own), Some(peer)) = (subject(rows), best_peer(&reading, rows)) else {
            continue;
        };
        writeln!(
            text,
            "| [`{}`](#{}) | {} | {} | {} | {} | **{:.2}** |",
            workload.name(),
            anchor(workload.name(), &reading.title),
            reading.main,
            value(&reading, own.main.median),
            value(&reading, peer.main.median),
            peer.entry.name,
            reading.ratio(own, peer),
        )?;
    }
    Ok(())
}

fn times(text: &mut String, reading: &Reading, rows: &[Row]) -> fmt::Result {
    let side = reading.side.map(|side| format!(" {side} |")).unwrap_or_default();
    let rule = if reading.side.is_some() { "--:|" } else { "" };
    writeln!(
        text,
        "| | {} | spread |{side} time against best peer | CPU ns per job | switches per job |",
        reading.main
    )?;
    writeln!(text, "|---|--:|--:|{rule}--:|--:|--:|")?;
    let peer = best_peer(reading, rows);
    for row in rows {
        let spread = format!("{}..{}", value(reading, row.main.min), value(reading, row.main.max));
        let side = match (reading.side, row.side) {
            (Some(_), Some(side)) => format!(" {} |", figure(side.median)),
            (Some(_), None) => " |".into(),
            (None, _) => String::new(),
        };
        let against = peer.map_or("".into(), |peer| format!("{:.2}", reading.ratio(row, peer)));
        writeln!(
            text,
            "| {} | **{}** | {spread} |{side} {against} | {} | {} |",
            row.entry.name,
            value(reading, row.main.median),
            figure(row.cpu),
            figure(row.switches),
        )?;
    }
    Ok(())
}

/// Shares in percent, everything else as it is.
fn value(reading: &Reading, value: f64) -> String {
    if reading.higher_is_better { format!("{:.1} %", value * 100.0) } else { figure(value) }
}

/// The name that a heading gets when the file is shown as a page.
fn anchor(name: &str, title: &str) -> String {
    let heading = format!("{name}: {title}").to_lowercase();
    heading
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == ' ')
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn counts(text: &mut String, results: &Results) -> fmt::Result {
    writeln!(
        text,
        "\nPer job, warm-up excluded; counted in a run of its own, since counting takes time. A foreign free is one on another \
         thread than the one that allocated."
    )?;
    for (workload, rows) in &results.tables {
        writeln!(text, "\n## {}\n", workload.name())?;
        writeln!(text, "| | allocations | bytes | foreign frees | switches |\n|---|--:|--:|--:|--:|")?;
        for row in rows {
            writeln!(
                text,
                "| {} | {:.2} | {} | {:.2} | {} |",
                row.entry.name,
                row.allocations,
                figure(row.bytes),
                row.foreign_frees,
                figure(row.switches),
            )?;
        }
    }
    Ok(())
}
