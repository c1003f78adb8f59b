//! The walk: finds regular files lazily and submits each as a job.

use std::fs;
use std::io;
use std::iter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::Sender;
use walkdir::WalkDir;
use workpath::{Context, Job, JobHandle, Submitter};

use crate::hash::HashFile;

/// What the walk hands to the printer, in the order of the output.
pub(crate) enum Item {
    /// A file, on its way through the delegator.
    File(JobHandle),
    /// A path that the walk could not look into.
    Unreadable(Unreadable),
    /// The run ended before this path, and nothing follows.
    Stopped { before: String },
}

impl Item {
    fn stopped(before: impl Into<String>) -> Item {
        Item::Stopped { before: before.into() }
    }
}

pub(crate) struct Unreadable {
    pub(crate) path: PathBuf,
    pub(crate) error: io::Error,
}

pub(crate) struct Walk {
    pub(crate) run: Context,
    /// For each file, from its first byte.
    pub(crate) limit: Option<Duration>,
    pub(crate) jobs: Submitter,
    pub(crate) window: Sender<Item>,
}

impl Walk {
    /// Submits every file below `paths`, until the run ends or nobody takes the items any more.
    ///
    /// Blocks while the queue or the window is full. That keeps the walk, and with it memory, in step with the work.
    pub(crate) fn submit_all(self, paths: &[PathBuf]) {
        for found in regular_files(paths) {
            let item = match found {
                Ok(path) | Err(Unreadable { path, .. }) if self.run.is_done() => {
                    Item::stopped(path.to_string_lossy())
                }
                Ok(path) => self.submit(path),
                Err(unreadable) => Item::Unreadable(unreadable),
            };
            let last = matches!(item, Item::Stopped { .. });
            if self.window.send(item).is_err() || last {
                return;
            }
        }
    }

    fn submit(&self, path: PathBuf) -> Item {
        let job = Job::from_operation(HashFile { path, limit: self.limit }).with_context(&self.run);
        match self.jobs.submit(job) {
            Ok(handle) => Item::File(handle),
            Err(refused) => Item::stopped(refused.into_job().name()),
        }
    }
}

/// The regular files below each path: depth first, and in byte order of the names within a folder.
///
/// Holds the names of the folders it is in, never those of the whole tree.
pub(crate) fn regular_files(paths: &[PathBuf]) -> impl Iterator<Item = Result<PathBuf, Unreadable>> {
    paths.iter().flat_map(|path| below(path))
}

/// What one path of the command line stands for. A link is followed here, and only here.
fn below(path: &Path) -> Box<dyn Iterator<Item = Result<PathBuf, Unreadable>> + '_> {
    let error = match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Box::new(folder(path)),
        Ok(found) if found.is_file() => return Box::new(iter::once(Ok(path.to_owned()))),
        Ok(_) => io::Error::other("neither a regular file nor a folder"),
        Err(error) => error,
    };
    Box::new(iter::once(Err(Unreadable { path: path.to_owned(), error })))
}

fn folder(root: &Path) -> impl Iterator<Item = Result<PathBuf, Unreadable>> {
    WalkDir::new(root).sort_by_file_name().into_iter().filter_map(move |entry| match entry {
        Ok(entry) => entry.file_type().is_file().then(|| Ok(entry.into_path())),
        Err(error) => {
            let path = error.path().unwrap_or(root).to_owned();
            let error = error.into_io_error().unwrap_or_else(|| io::Error::other("not a tree"));
            Some(Err(Unreadable { path, error }))
        }
    })
}
