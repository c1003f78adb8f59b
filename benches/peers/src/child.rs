//! Measures that must not see each other's memory, each in a process of its own.

use std::env;
use std::process::Command;

/// Runs this program again with `arguments` and reads the numbers that it prints, separated by spaces.
pub fn numbers(arguments: &[String]) -> Result<Vec<f64>, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program).args(arguments).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} ended with {}: {}", arguments.join(" "), output.status, text.trim()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace()
        .map(|number| number.parse().map_err(|_| format!("{number} is no number")))
        .collect()
}
