//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

pub const HELP: &str = "\
Runs the same work on workpath and on its peers and writes a table and a chart.

    --rounds N           rounds, in each of which every contender runs once (9)
    --only A,B           workloads: stream fanin burst pingpong work many deadline nested
    --contender A,B      contenders by key, those outside the usual ones included (--list)
    --list               names all contenders and ends
    --jobs-scale X       multiplies the number of jobs of every run (1.0)
    --window N           results left untaken at most, by all producers together (1024)
    --producers N        threads that submit in fanin (4)
    --payload BYTES      what every operation returns (0)
    --quick              three rounds of a tenth of the jobs
    --out DIR            where the files go; without it only a full run writes, into docs/
";

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub rounds: usize,
    pub only: Vec<String>,
    pub contenders: Vec<String>,
    pub scale: f64,
    pub producers: usize,
    pub window: usize,
    pub payload: usize,
    pub out: Option<PathBuf>,
    pub list: bool,
    /// Nothing was left out or made smaller.
    pub full: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rounds: 9,
            only: Vec::new(),
            contenders: Vec::new(),
            scale: 1.0,
            producers: 4,
            window: 1_024,
            payload: 0,
            out: None,
            list: false,
            full: true,
        }
    }
}

impl Options {
    /// Reads the arguments after the program's name; `Err` is what to tell the user.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--rounds" => {
                    options.rounds = number(&value()?)?;
                    continue;
                }
                "--only" => options.only = list(&value()?),
                "--contender" => options.contenders = list(&value()?),
                "--jobs-scale" => options.scale = number(&value()?)?,
                "--window" => options.window = number(&value()?)?,
                "--producers" => options.producers = number(&value()?)?,
                "--payload" => options.payload = number(&value()?)?,
                "--out" => {
                    options.out = Some(value()?.into());
                    continue;
                }
                "--list" => options.list = true,
                "--quick" => {
                    options.rounds = 3;
                    options.scale = 0.1;
                }
                "--help" | "-h" => return Err(HELP.into()),
                _ => return Err(format!("unknown argument {argument}\n\n{HELP}")),
            }
            options.full = false;
        }
        if options.rounds.min(options.producers).min(options.window) == 0
            || !options.scale.is_finite()
            || options.scale <= 0.0
        {
            return Err("rounds, producers, window and scale must be above zero".into());
        }
        Ok(options)
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(|name| name.trim().to_owned()).collect()
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is not a number that fits here"))
}
