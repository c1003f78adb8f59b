//! What every worker is doing, live, in a terminal: its job, for how long, how far it says it is, and what is wrong. Next
//! to that the queue, rates, latencies and the last failures.
//!
//! It watches a delegator in the same process, which has some of everything to do: quick jobs, a slow one, one that hangs
//! past its deadline and hears nothing, some that fail and some that panic. `look.rs` and `view.rs` would do for any other
//! delegator.

mod args;
mod demo;
mod look;
mod screen;
mod view;

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::args::Args;
use crate::demo::Demo;
use crate::look::{Look, Watch};
use crate::screen::Screen;
use crate::view::View;

/// How often it looks.
const TICK: Duration = Duration::from_millis(250);

/// How long jobs have to end when the user leaves.
const PATIENCE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let args = Args::parse();
    if !io::stdout().is_terminal() {
        let _ =
            writeln!(io::stderr(), "top: standard output is not a terminal, so there is nothing to draw on");
        return ExitCode::from(2);
    }
    match run(&args) {
        Ok(status) => status.into(),
        Err(error) => {
            let _ = writeln!(io::stderr(), "top: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<u8, Box<dyn Error>> {
    let signal = on_signal()?;
    let mut demo = Demo::start(args.workers)?;
    let status = {
        let mut screen = Screen::open()?;
        watch(args, &mut screen, &mut demo, &signal)?
    };
    // The terminal is as it was, and takes lines.
    let _ = write!(io::stdout(), "{}", demo.end(PATIENCE));
    Ok(status)
}

/// Until the user, a signal or the time ends it.
fn watch(
    args: &Args,
    screen: &mut Screen,
    demo: &mut Demo,
    signal: &AtomicUsize,
) -> Result<u8, Box<dyn Error>> {
    let started = Instant::now();
    let mut watch = Watch::new(demo.delegator());
    let mut view = View::default();
    loop {
        let look = watch.look(demo.delegator());
        screen.draw(|frame| view.draw(frame, &look))?;
        if args.panics {
            panic!("as it was told to");
        }
        let next = Instant::now() + TICK;
        loop {
            match signal.load(Ordering::Relaxed) {
                0 => {}
                number => return Ok(128 + number as u8),
            }
            if args.time.is_some_and(|time| started.elapsed() >= time) {
                return Ok(0);
            }
            if !event::poll(next.saturating_duration_since(Instant::now()))? {
                break;
            }
            let Event::Key(key) = event::read()? else { break };
            match key {
                KeyEvent { kind: KeyEventKind::Release, .. } => continue,
                KeyEvent { code: KeyCode::Char('c'), modifiers: KeyModifiers::CONTROL, .. } => {
                    return Ok(130);
                }
                KeyEvent { code: KeyCode::Char('q') | KeyCode::Esc, .. } => return Ok(0),
                KeyEvent { code: KeyCode::Up | KeyCode::Char('k'), .. } => view.select(&look, -1),
                KeyEvent { code: KeyCode::Down | KeyCode::Char('j'), .. } => view.select(&look, 1),
                KeyEvent { code: KeyCode::Char('c'), .. } => cancel(demo, &mut view, &look),
                KeyEvent { code: KeyCode::Char('d'), .. } => {
                    demo.drain()?;
                    view.drain();
                }
                _ => continue,
            }
            break;
        }
    }
}

/// Cancels the selected job.
fn cancel(demo: &Demo, view: &mut View, look: &Look) {
    match view.selected(look) {
        Some((id, name)) if demo.cancel(id) => view.told(id, &name),
        Some((_, name)) => view.say(format!("{name} has ended")),
        None => view.say("no job is selected".to_owned()),
    }
}

/// The number of the signal that asks for an end; zero for none.
fn on_signal() -> io::Result<Arc<AtomicUsize>> {
    let number = Arc::new(AtomicUsize::new(0));
    #[cfg(unix)]
    for signal in [signal_hook::consts::SIGHUP, signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_usize(signal, Arc::clone(&number), signal as usize)?;
    }
    Ok(number)
}
