//! The program on a terminal that `script` makes for it: what it shows, what keys do, and how it leaves the terminal.

#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_top");

/// How long anything may take before a test calls it stuck.
const STUCK: Duration = Duration::from_secs(100);

/// The program ends by itself long after every test has.
const LONG: &str = "--seconds 300";

struct Terminal {
    child: Child,
    keys: ChildStdin,
    chunks: Receiver<Vec<u8>>,
    /// Everything that was written to it.
    seen: String,
}

impl Terminal {
    /// Starts the program between two looks at the settings of an 80x24 terminal. `None` where there is no `script`.
    fn start(arguments: &str) -> Option<Terminal> {
        let line = format!(
            "stty rows 24 cols 80; before=$(stty -g); sh -c 'echo pid $$.; exec {PROGRAM} {arguments}'; \
             echo status $?.; [ \"$(stty -g)\" = \"$before\" ] && echo settings restored"
        );
        let mut command = Command::new("script");
        command.args(["-q", "-f", "-c", &line, "/dev/null"]);
        command.env("SHELL", "/bin/sh").env("TERM", "xterm").env("RUST_BACKTRACE", "0");
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: script: {error}");
                return None;
            }
        };
        let mut stdout = child.stdout.take().unwrap();
        let (sender, chunks) = channel();
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut chunk) {
                if sender.send(chunk[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Some(Terminal { keys: child.stdin.take().unwrap(), child, chunks, seen: String::new() })
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Reads on until the text has been written. What is on the screen already, blanks too, is not written again: so only
    /// words, and texts in a colour where nothing was before, come in one piece.
    #[track_caller]
    fn until(&mut self, text: &str) {
        let limit = Instant::now() + STUCK;
        while !self.seen.contains(text) {
            match self.chunks.recv_timeout(limit.saturating_duration_since(Instant::now())) {
                Ok(chunk) => self.seen.push_str(&String::from_utf8_lossy(&chunk)),
                Err(error) => panic!("no {text:?}: {error}\n{}", self.seen),
            }
        }
    }

    /// The program has ended with this status, and the terminal is as it was.
    #[track_caller]
    fn ends_with(mut self, status: u8) -> String {
        self.until(&format!("status {status}.\r\n"));
        self.until("settings restored");
        drop(self.keys);
        assert!(self.child.wait().unwrap().success());
        let last = |code: &str| self.seen.rfind(code).unwrap_or_else(|| panic!("no {code:?}: {}", self.seen));
        assert!(last("\x1b[?1049l") > last("\x1b[?1049h"), "still on the other screen: {}", self.seen);
        assert!(last("\x1b[?25h") > last("\x1b[?25l"), "no cursor: {}", self.seen);
        self.seen
    }

    fn signal(&mut self, signal: &str) {
        self.until(".\r\n");
        let pid = self.seen.split("pid ").nth(1).and_then(|rest| rest.split('.').next()).unwrap().to_owned();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

#[test]
fn a_slow_a_hung_and_a_panicking_job_are_seen_and_the_hung_one_is_named_at_the_end() {
    let Some(mut terminal) = Terminal::start(LONG) else { return };
    for text in ["workpath top", "import", "no such field", "sync", "overdue", "past its deadline"] {
        terminal.until(text);
    }
    terminal.press("q");
    let seen = terminal.ends_with(0);
    let (_, end) = seen.rsplit_once("\x1b[?1049l").unwrap();
    assert!(
        end.contains("stuck: \"sync\" on workpath-") && end.contains("waiting for the mirror's lock"),
        "{end}"
    );
    assert!(end.contains(" panicked, "), "{end}");
}

#[test]
fn keys_select_cancel_and_drain() {
    let Some(mut terminal) = Terminal::start("--seconds 300 --workers 1") else { return };
    terminal.until("import");
    terminal.press("jc");
    terminal.until("import was told to stop");
    // The cause, in the list of what did not complete.
    terminal.until("hand;");
    terminal.press("d");
    terminal.until("draining, ");
    terminal.press("q");
    terminal.ends_with(0);
}

#[test]
fn the_terminal_is_given_back_however_it_ends() {
    let Some(terminal) = Terminal::start("--seconds 0.5") else { return };
    terminal.ends_with(0);

    let mut terminal = Terminal::start(LONG).unwrap();
    terminal.until("quit");
    terminal.press("\x03");
    terminal.ends_with(130);

    for (signal, status) in [("-TERM", 143), ("-INT", 130), ("-HUP", 129)] {
        let mut terminal = Terminal::start(LONG).unwrap();
        terminal.until("quit");
        terminal.signal(signal);
        terminal.ends_with(status);
    }
}

#[test]
fn the_message_of_a_panic_comes_after_the_terminal_is_given_back() {
    let Some(terminal) = Terminal::start("--panic") else { return };
    let seen = terminal.ends_with(101);
    let left = seen.find("\x1b[?1049l").unwrap();
    assert!(seen.find("as it was told to").unwrap() > left, "{seen}");
}

#[test]
fn without_a_terminal_it_says_so() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(errors, "top: standard output is not a terminal, so there is nothing to draw on\n");
}

#[test]
fn wrong_arguments_are_named() {
    for (arguments, message) in [
        (["--seconds", "soon"], "invalid value 'soon' for '--seconds <SECONDS>': not a number of seconds"),
        (["--workers", "0"], "invalid value '0' for '--workers <N>': not a number from 1 to 64"),
    ] {
        let output = run(&arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(message), "{errors}");
        assert_eq!(output.status.code(), Some(2));
    }
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap()
}
