//! The example `thumbnails`, run as a program: a small copy of every picture, the broken ones named, and an end when it is
//! told.

#![cfg(target_os = "linux")]

mod common;
#[path = "common/program.rs"]
mod program;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use image::GenericImageView;

/// A folder of its own that is gone in the end.
struct Album {
    root: PathBuf,
    program: PathBuf,
}

impl Album {
    fn new(name: &str) -> Option<Album> {
        let program = program::find("thumbnails")?;
        let root = std::env::temp_dir().join(format!("workpath-thumbnails-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("from")).unwrap();
        Some(Album { root, program })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program::command(&self.program);
        command.args(arguments).args(["from", "to"]).current_dir(&self.root);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The files below a folder, by their paths in it.
    fn files(&self, folder: &str) -> Vec<String> {
        let root = self.root.join(folder);
        let files = walkdir::WalkDir::new(&root).sort_by_file_name().into_iter().filter_map(Result::ok);
        files
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| entry.path().strip_prefix(&root).unwrap().display().to_string())
            .collect()
    }
}

impl Drop for Album {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn size(path: &Path) -> (u32, u32) {
    image::open(path).unwrap().dimensions()
}

#[test]
fn every_picture_gets_a_small_copy() {
    for workers in ["1", "4"] {
        let Some(album) = Album::new("all") else { return };
        fs::write(album.root.join("from/notes.txt"), "no picture").unwrap();
        let output = album.run(&["--make", "7", "--workers", workers, "--size", "64"]);
        let (out, errors) = (show(&output.stdout), show(&output.stderr));
        assert!(out.starts_with("7 pictures: 7 thumbnails, 0 broken, 0 left, in "), "{out} {errors}");
        assert_eq!((output.status.code(), &*errors), (Some(0), ""));
        let pictures: Vec<String> =
            album.files("from").into_iter().filter(|name| !name.ends_with(".txt")).collect();
        let expected: Vec<String> = pictures.iter().map(|name| format!("{name}.png")).collect();
        assert_eq!(album.files("to"), expected, "and nothing half done");
        for name in expected {
            assert_eq!(size(&album.root.join("to").join(name)), (64, 48));
        }
    }
}

#[test]
fn broken_pictures_are_named_and_the_others_made() {
    let Some(album) = Album::new("broken") else { return };
    fs::write(album.root.join("from/empty.png"), "").unwrap();
    fs::write(album.root.join("from/text\n.JPG"), "this is no picture").unwrap();
    let output = album.run(&["--make", "6", "--spoil", "2"]);
    let (out, errors) = (show(&output.stdout), show(&output.stderr));
    assert!(out.starts_with("8 pictures: 4 thumbnails, 4 broken, 0 left, in "), "{out} {errors}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(album.files("to").len(), 4);
    let mut lines: Vec<&str> = errors.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 4, "{errors}");
    for (line, start) in lines.iter().zip([
        "thumbnails: \"from/000/00002.png\": ",
        "thumbnails: \"from/000/00005.png\": ",
        "thumbnails: \"from/empty.png\": ",
        "thumbnails: \"from/text\\n.JPG\": ",
    ]) {
        assert!(line.starts_with(start) && line.len() > start.len(), "{line}");
    }
}

#[test]
fn the_first_broken_one_stops_it_on_request() {
    let Some(album) = Album::new("stop") else { return };
    let output = album.run(&["--make", "20", "--spoil", "20", "--stop-at-error", "--workers", "1"]);
    let (out, errors) = (show(&output.stdout), show(&output.stderr));
    // The one whose turn it was may have been at work.
    let broken = errors.lines().count();
    assert!((1..=3).contains(&broken), "{errors}");
    let expected = format!("20 pictures: 0 thumbnails, {broken} broken, {} left, in ", 20 - broken);
    assert!(out.starts_with(&expected), "{out}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn an_interrupt_ends_it_cleanly() {
    let Some(album) = Album::new("interrupt") else { return };
    album.run(&["--make", "2"]);
    // In the order of names: the broken one is the first.
    fs::write(album.root.join("from/000/0.png"), "").unwrap();
    for n in 0..2000 {
        fs::hard_link(album.root.join("from/000/00001.png"), album.root.join(format!("from/more{n}.png")))
            .unwrap();
    }
    let mut child =
        album.command(&["--workers", "1"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    stderr.read_line(&mut first).unwrap();
    program::interrupt(&child);
    let (output, errors) = common::watchdog(move || {
        let mut errors = String::new();
        stderr.read_to_string(&mut errors).unwrap();
        (child.wait_with_output().unwrap(), errors)
    });
    let out = show(&output.stdout);
    assert_eq!((output.status.code(), &*errors), (Some(130), ""), "{first}{out}");
    assert!(out.starts_with("2003 pictures: ") && !out.contains(", 0 left"), "{out}");
    assert!(album.files("to").iter().all(|name| name.ends_with(".png")), "nothing half done");
}

#[test]
fn wrong_usage_is_told() {
    let Some(album) = Album::new("usage") else { return };
    for (arguments, message) in [
        (&["--size", "0"][..], "invalid value '0' for '--size <PIXELS>'"),
        (&["--workers", "0"], "invalid value '0' for '--workers <N>'"),
        (&["--make", "many"], "invalid value 'many' for '--make <N>'"),
        (&["surplus"], "unexpected argument 'to'"),
    ] {
        let output = album.run(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(show(&output.stderr).contains(message), "{}", show(&output.stderr));
    }
    fs::remove_dir_all(album.root.join("from")).unwrap();
    let output = album.run(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(show(&output.stderr).starts_with("thumbnails: "), "{}", show(&output.stderr));
}
