//! Jobs that go on though their context has ended.
//!
//! 1. There is no tick. Who may have a running job become stuck sets the alarm for the end of its margin: the worker that
//!    starts a job with a deadline, and who cancels. A job's deadline that is later than the alarm costs a load.
//! 2. When the alarm goes off, the delegator thread clears it, looks at what runs, and sets it for the earliest end of
//!    a margin among that. A worker sets the alarm after its job is on the stack; the look takes the lock of the stack
//!    after it has cleared the alarm: so either the look finds the job, or the job finds the alarm cleared.
//! 3. A job is reported once; its place on the stack says that it was. The event is sent under the lock of the stack,
//!    so none comes after the job's end. The line for the log is written by others: loggers are user code and may hang.

use std::fmt::Write;

use crate::clock::Tick;
use crate::context::Scope;
use crate::engine::{AtWork, Engine};
use crate::events::Event;
use crate::notes::Span;

/// Reports what has become stuck. Gives the workers, with what the log is to say, and when to look again.
pub(crate) fn look(engine: &Engine, now: Tick) -> (Vec<(usize, String)>, Tick) {
    let (mut reports, mut next) = (Vec::new(), Tick::NEVER);
    for (worker, slot) in engine.all_slots() {
        let mut at_work = slot.lock();
        let AtWork { scope: shared, stack, .. } = &mut *at_work;
        for running in stack.iter_mut().filter(|running| !running.stuck) {
            let scope = running.scope.as_ref().unwrap_or(shared);
            let (deadline, cancelled) = (running.task.deadline, Scope::cancelled_since(scope));
            let ended = cancelled.map_or(deadline, |cancelled| cancelled.min(deadline));
            let due = ended.after(engine.alarm.margin);
            if now < due || due == Tick::NEVER {
                next = next.min(due);
                continue;
            }
            running.stuck = true;
            let task = &running.task;
            let overdue = now.since(ended).unwrap_or_default();
            let ran = now.since(task.started().unwrap_or(now)).unwrap_or_default();
            let note = scope.notes().and_then(|notes| notes.read().checkpoint);
            let what = if ended == deadline { "its deadline was" } else { "it was cancelled" };
            let mut line = format!(
                "job {} {:?} is stuck on {}: {what} {} ago, it runs for {}",
                task.id,
                task.name,
                slot.thread_name,
                Span(overdue),
                Span(ran),
            );
            if let Some(note) = &note {
                // Writing to a string does not fail.
                let _ = write!(line, "; {}", note.as_of(now));
            }
            reports.push((worker, line));
            engine.events.emit(|| Event::Stuck {
                id: task.id,
                name: task.name.clone(),
                worker,
                overdue,
                checkpoint: note.map(|note| note.seen_by(task.wall)),
            });
        }
    }
    (reports, next)
}
