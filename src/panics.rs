//! The only place where panics are caught. User code always runs through here; ours never does.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The log target of the crate.
const LOG: &str = "workpath";

/// How many payloads that panic while they are dropped are taken one out of the other before the next is leaked.
const NESTED_PAYLOADS: usize = 16;

/// Runs user code; a panic in it becomes its message.
pub(crate) fn contain<T>(user_code: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(user_code)).map_err(message)
}

/// Drops a value that may run user code. A panic in it is logged, with what it was.
pub(crate) fn discard<T>(what: impl fmt::Display, value: T) {
    if std::mem::needs_drop::<T>() {
        if let Err(panic) = contain(|| drop(value)) {
            log(log::Level::Error, format_args!("panic while {what} was dropped: {panic}"));
        }
    }
}

/// What a log line is about: with the feature `kv`, its key-values.
#[cfg(feature = "kv")]
pub(crate) use log::kv::Source as Subject;
#[cfg(not(feature = "kv"))]
pub(crate) trait Subject {}
#[cfg(not(feature = "kv"))]
impl<T> Subject for T {}

/// Logs a line. Loggers, and what they format, are user code like any other.
pub(crate) fn log(level: log::Level, line: fmt::Arguments<'_>) {
    log_about(level, line, &[("", ""); 0]);
}

/// Logs a line about something.
pub(crate) fn log_about(level: log::Level, line: fmt::Arguments<'_>, subject: &impl Subject) {
    if may_be_logged(level) {
        // A logger that panics cannot be told about.
        let _ = contain(|| {
            let mut record = log::Record::builder();
            record.level(level).target(LOG).module_path_static(Some(module_path!()));
            record.file_static(Some(file!())).line(Some(line!()));
            #[cfg(feature = "kv")]
            record.key_values(subject);
            #[cfg(not(feature = "kv"))]
            let _ = subject;
            log::logger().log(&record.args(line).build());
        });
    }
}

/// Whether it is worth while to ask the logger. It is not asked yet: that is user code too.
pub(crate) fn may_be_logged(level: log::Level) -> bool {
    level <= log::STATIC_MAX_LEVEL && level <= log::max_level()
}

fn message(payload: Box<dyn Any + Send>) -> String {
    let text = if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a text".to_owned()
    };
    bury(payload);
    text
}

/// Drops a payload whose own drop may panic with another such payload.
fn bury(payload: Box<dyn Any + Send>) {
    let mut next = Some(payload);
    for _ in 0..NESTED_PAYLOADS {
        match next.take() {
            Some(payload) => next = catch_unwind(AssertUnwindSafe(|| drop(payload))).err(),
            None => return,
        }
    }
    std::mem::forget(next);
}
