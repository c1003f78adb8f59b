//! Examples, run as programs.

#![allow(dead_code, reason = "not every program is interrupted")]

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Once;

/// The example, which cargo has put next to this test.
///
/// A plain `cargo test` builds the examples as they are run. With any target named (`--tests`, `--all-targets`) it
/// does not, and there is no program unless `cargo build --examples` has made one before.
pub(crate) fn find(example: &str) -> Option<PathBuf> {
    static ABSENT: Once = Once::new();
    let test = env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples").join(example);
    if program.exists() {
        return Some(program);
    }
    // Past the test runner, which would keep it to itself.
    ABSENT.call_once(|| {
        let _ = writeln!(io::stderr(), "skipped: there is no {}; cargo build --examples", program.display());
    });
    None
}

/// Starts the program, through the emulator that cargo runs this test with, if any.
pub(crate) fn command(program: &Path) -> Command {
    let target = program.ancestors().nth(3).and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let runner = format!("CARGO_TARGET_{}_RUNNER", target.to_uppercase().replace('-', "_"));
    let Ok(runner) = env::var(runner) else {
        return Command::new(program);
    };
    let mut words = runner.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words).arg(program);
    command
}

/// What Ctrl-C sends.
pub(crate) fn interrupt(child: &Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}
