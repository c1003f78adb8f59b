//! What a job costs as numbers grow: jobs, producers, layers of context, pending deadlines, live cancellers, and what it
//! costs to cancel a root with many descendants.
//!
//! Every figure comes from a process of its own, so that no table inherits another's memory: `tables` asks for the figures,
//! `cells` takes them.

mod cells;
mod tables;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use peers::child;
use peers::machine::{self, Machine, version};
use peers::stats::Spread;

const HELP: &str = "\
Shows how time and memory grow with jobs, producers, contexts, deadlines and cancellers.

    --rounds N      how often every figure is taken; the table shows medians (5)
    --quick         one round of smaller numbers
    --only A,B      tables: jobs backlog producers layers deadlines cancellers cancel
    --out DIR       where growth.md goes; without it only a full run writes, into docs/
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((first, rest)) if first == "--cell" => cells::run(rest),
        _ => Plan::parse(&arguments).and_then(|plan| plan.run()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

struct Plan {
    rounds: usize,
    quick: bool,
    only: Vec<String>,
    out: Option<PathBuf>,
}

impl Plan {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut plan = Self { rounds: 5, quick: false, only: Vec::new(), out: None };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--rounds" => plan.rounds = value()?.parse().map_err(|_| "rounds must be a number")?,
                "--quick" => (plan.quick, plan.rounds) = (true, 1),
                "--only" => plan.only = value()?.split(',').map(str::to_owned).collect(),
                "--out" => plan.out = Some(value()?.into()),
                _ => return Err(HELP.into()),
            }
        }
        Ok(plan)
    }

    fn run(&self) -> Result<(), String> {
        machine::warn_if_busy();
        let mut text = String::new();
        self.head(&mut text);
        if let Some(unknown) = self.only.iter().find(|only| tables::ALL.iter().all(|(name, _)| name != only))
        {
            return Err(format!("no table is called {unknown}"));
        }
        for (name, table) in tables::ALL {
            if self.only.is_empty() || self.only.iter().any(|only| only == name) {
                table(self, &mut text)?;
            }
        }
        println!("{text}");

        let full = !self.quick && self.only.is_empty();
        let docs = || full.then(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs"));
        let Some(folder) = self.out.clone().or_else(docs) else {
            return Ok(());
        };
        let path = folder.join("growth.md");
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(&path, &text))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        eprintln!("wrote {}", path.display());
        Ok(())
    }

    fn head(&self, text: &mut String) {
        *text += &format!(
            "# Growth\n\n<!-- Written by a program; the command below writes it again. -->\n\n\
             What a job costs as numbers grow. Medians of {} processes each; two workers, defaults elsewhere.\n\n\
             ```sh\ncargo run --release --manifest-path benches/peers/Cargo.toml --bin growth\n```\n\n\
             - Machine: {}.\n- Version: workpath {}.\n",
            self.rounds,
            Machine::look(),
            version("workpath"),
        );
    }

    /// The medians of what a cell prints.
    fn measure(&self, name: &str, arguments: &[usize]) -> Result<Vec<f64>, String> {
        let mut command = vec!["--cell".to_owned(), name.to_owned()];
        command.extend(arguments.iter().map(usize::to_string));
        let runs: Vec<Vec<f64>> =
            (0..self.rounds.max(1)).map(|_| child::numbers(&command)).collect::<Result<_, _>>()?;
        let width = runs.iter().map(Vec::len).min().unwrap_or(0);
        let column = |place: usize| Spread::of(runs.iter().map(|run| run[place])).map_or(0.0, |s| s.median);
        Ok((0..width).map(column).collect())
    }

    /// Jobs of one measurement where their number is not the question.
    fn length(&self) -> usize {
        if self.quick { 50_000 } else { 500_000 }
    }

    /// Powers of ten from `first`; a quick run stops two short of the last.
    fn powers(&self, first: u32, last: u32) -> impl Iterator<Item = usize> + use<> {
        let last = if self.quick { (last - 2).max(first) } else { last };
        (first..=last).map(|power| 10_usize.pow(power))
    }
}
