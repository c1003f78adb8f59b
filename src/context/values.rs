//! The values of a context: a chain from the newest to the oldest.

use std::any::Any;
use std::borrow::Cow;

use crate::sync::Arc;

pub(super) struct Entry {
    pub(super) key: Cow<'static, str>,
    pub(super) value: Box<dyn Any + Send + Sync>,
    /// Only `None` below the oldest entry and while the chain is taken down.
    pub(super) older: Option<Arc<Entry>>,
}

/// The value of the newest entry with this key.
pub(super) fn lookup<'a>(newest: Option<&'a Entry>, key: &str) -> Option<&'a (dyn Any + Send + Sync)> {
    let mut next = newest;
    while let Some(entry) = next {
        if entry.key == key {
            return Some(&*entry.value);
        }
        next = entry.older.as_deref();
    }
    None
}

impl Drop for Entry {
    /// Takes the chain down in a loop: a drop that recursed would overflow the stack on a long one.
    fn drop(&mut self) {
        let mut next = self.older.take();
        while let Some(entry) = next {
            next = Arc::into_inner(entry).and_then(|mut entry| entry.older.take());
        }
    }
}
