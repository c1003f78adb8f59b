//! Ends the program when a run does not, and says which one it was.

use std::process;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Much longer than any run takes.
const PATIENCE: Duration = Duration::from_secs(180);

/// A thread that is told what runs, and when nothing does.
pub struct Watchdog(Sender<Option<String>>);

/// Something runs as long as this lives.
pub struct Guard<'a>(&'a Watchdog);

impl Watchdog {
    pub fn start() -> Self {
        let (sender, receiver) = mpsc::channel::<Option<String>>();
        thread::spawn(move || {
            let mut running = None;
            loop {
                let next = match running {
                    None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
                    Some(_) => receiver.recv_timeout(PATIENCE),
                };
                match (next, running) {
                    (Ok(now), _) => running = now,
                    (Err(RecvTimeoutError::Timeout), Some(what)) => {
                        eprintln!("\n{what} has not ended after {} s", PATIENCE.as_secs());
                        process::exit(2);
                    }
                    (Err(_), _) => return,
                }
            }
        });
        Self(sender)
    }

    pub fn watch(&self, what: String) -> Guard<'_> {
        self.tell(Some(what));
        Guard(self)
    }

    fn tell(&self, message: Option<String>) {
        self.0.send(message).expect("the watchdog lives as long as its sender");
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.tell(None);
    }
}
