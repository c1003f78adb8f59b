//! Runs the same work on `workpath` and on the pools that people use today, interleaved in one process, and writes what it
//! found to a table and a chart.

mod contender;
mod options;
mod report;
mod roster;
mod watchdog;
mod workload;

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use options::Options;
use peers::machine::{self, Machine};
use report::{Results, Row};
use watchdog::Watchdog;
use workload::{Load, Sample, Workload};

#[cfg(all(feature = "count", feature = "mimalloc"))]
compile_error!("`count` and `mimalloc` both replace the global allocator: choose one");

#[cfg(feature = "count")]
#[global_allocator]
static ALLOCATOR: peers::alloc::Counting = peers::alloc::Counting;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = Options::parse(std::env::args().skip(1)).and_then(|options| {
        if options.list {
            roster::print();
            return Ok(());
        }
        machine::warn_if_busy();
        let results = measure(&options)?;
        publish(&options, &results)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Every workload in turn; in it `rounds` times every contender, beginning each time with the next one.
fn measure(options: &Options) -> Result<Results, String> {
    let Options { scale, payload, producers, window, .. } = *options;
    let load = Load { scale, payload, producers, window };
    let watchdog = Watchdog::start();
    let mut tables = Vec::new();
    for workload in chosen_workloads(&options.only)? {
        let entries = roster::entries(workload, &options.contenders)?;
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); entries.len()];
        for round in 0..options.rounds {
            for turn in 0..entries.len() {
                let who = (round + turn) % entries.len();
                let entry = &entries[who];
                progress(&format!("{} {}/{} {}", workload.name(), round + 1, options.rounds, entry.key));
                let _guard = watchdog.watch(format!("{} on {}", workload.name(), entry.key));
                samples[who].extend((entry.run)(workload, load));
            }
        }
        progress("");
        let rows = entries.into_iter().zip(samples).filter_map(|(entry, samples)| Row::new(entry, samples));
        tables.push((workload, rows.collect()));
    }
    Ok(Results { machine: Machine::look(), rounds: options.rounds, load, tables })
}

/// Replaces the line that says what runs, where somebody can see it.
fn progress(line: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K{line}");
    }
}

fn chosen_workloads(names: &[String]) -> Result<Vec<Workload>, String> {
    if names.is_empty() {
        return Ok(Workload::ALL.to_vec());
    }
    let find = |name: &String| {
        let known = Workload::ALL.into_iter().find(|workload| workload.name() == name);
        known.ok_or_else(|| format!("no workload is called {name}"))
    };
    names.iter().map(find).collect()
}

/// Prints the table, and writes the files unless the run was a partial one that names no place for them.
fn publish(options: &Options, results: &Results) -> Result<(), String> {
    let stem = if cfg!(feature = "count") {
        "benchmarks-count"
    } else if cfg!(feature = "mimalloc") {
        "benchmarks-mimalloc"
    } else {
        "benchmarks"
    };
    let table = report::markdown(results, stem);
    println!("{table}");

    let docs = || options.full.then(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs"));
    let Some(folder) = options.out.clone().or_else(docs) else {
        return Ok(());
    };
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    write(folder.join(stem).with_extension("md"), &table)?;
    if !cfg!(feature = "count") {
        write(folder.join(stem).with_extension("svg"), &report::svg(results)?)?;
    }
    Ok(())
}

fn write(path: PathBuf, text: &str) -> Result<(), String> {
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}
