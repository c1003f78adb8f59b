//! The example `digest`, run as a program: its lines are those of `sha256sum`, and it ends as it says.

#![cfg(target_os = "linux")]

#[path = "common/program.rs"]
mod program;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A size that takes any machine long to read, and no space on the disk.
const ENDLESS: u64 = 1 << 40;

/// The digest of nothing.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Ctrl-C promises one second; the other is for the machine that runs this test with many more.
const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
fn prints_the_lines_of_sha256sum() {
    let Some(tree) = Tree::new("lines") else { return };
    tree.odd_names();
    let expected = tree.sha256sum();

    for workers in ["1", "2", "7"] {
        let output = tree.run(&["--workers", workers, "."]);
        assert_eq!(show(&output.stdout), show(&expected), "with {workers} workers");
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn escapes_as_current_coreutils_do() {
    let Some(tree) = Tree::new("escapes") else { return };
    for name in ["a\\b", "a\nb", "a\rb", "a\tb", "plain"] {
        tree.file(name, "");
    }
    let output = tree.run(&["."]);
    let expected = format!(
        "{EMPTY}  ./a\tb\n\\{EMPTY}  ./a\\nb\n\\{EMPTY}  ./a\\rb\n\\{EMPTY}  ./a\\\\b\n{EMPTY}  ./plain\n"
    );
    assert_eq!(show(&output.stdout), expected);
}

#[test]
fn goes_depth_first_in_byte_order() {
    let Some(tree) = Tree::new("order") else { return };
    for path in ["b/z", "b/a/y", "b-c", "b.d", "B", "a", "ä"] {
        tree.file(path, "");
    }
    let output = tree.run(&["."]);
    assert_eq!(paths(&output), ["./B", "./a", "./b/a/y", "./b/z", "./b-c", "./b.d", "./ä"]);
}

#[test]
fn takes_paths_as_they_are_given() {
    let Some(tree) = Tree::new("given") else { return };
    tree.file("folder/one", "1");
    tree.file("two", "2");
    let absolute = tree.root.join("two");
    let absolute = absolute.to_str().unwrap();
    let output = tree.run(&["two", "folder/", absolute, "./folder", "two"]);
    assert_eq!(paths(&output), ["two", "folder/one", absolute, "./folder/one", "two"]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn follows_links_on_the_command_line_only() {
    let Some(tree) = Tree::new("links") else { return };
    tree.file("folder/file", "x");
    symlink("file", tree.root.join("folder/link")).unwrap();
    symlink(".", tree.root.join("folder/circle")).unwrap();
    symlink("folder", tree.root.join("to-folder")).unwrap();
    symlink("folder/file", tree.root.join("to-file")).unwrap();
    symlink("nowhere", tree.root.join("to-nothing")).unwrap();

    let output = tree.run(&["."]);
    assert_eq!(paths(&output), ["./folder/file"]);
    assert_eq!(output.status.code(), Some(0));

    let output = tree.run(&["to-folder", "to-file"]);
    assert_eq!(paths(&output), ["to-folder/file", "to-file"]);
    assert_eq!(output.status.code(), Some(0));

    let output = tree.run(&["to-nothing", "to-file"]);
    assert_eq!(paths(&output), ["to-file"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn passes_over_what_is_not_a_regular_file() {
    let Some(tree) = Tree::new("special") else { return };
    fs::create_dir_all(tree.root.join("nothing/inside")).unwrap();
    let made = Command::new("mkfifo").arg(tree.root.join("pipe")).status().unwrap();
    assert!(made.success());

    let output = tree.run(&["."]);
    assert_eq!(show(&output.stdout), "");
    assert_eq!(output.status.code(), Some(0));

    // Asked for by name, it is an error.
    let output = tree.run(&["pipe"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(show(&output.stderr).contains("digest: pipe: "), "{}", show(&output.stderr));
}

#[test]
fn reports_what_it_cannot_read_and_does_the_rest() {
    let Some(tree) = Tree::new("unreadable") else {
        return;
    };
    tree.file("a", "");
    tree.file("b", "");
    tree.file("closed/c", "");
    tree.file("d", "");
    for name in ["b", "closed"] {
        fs::set_permissions(tree.root.join(name), Permissions::from_mode(0o000)).unwrap();
    }
    let all_powerful = File::open(tree.root.join("b")).is_ok();

    let output = tree.run(&[".", "gone", "/proc/self/mem", "a"]);
    let errors = show(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("digest: gone: "), "{errors}");
    assert!(errors.contains("digest: /proc/self/mem: "), "{errors}");
    if all_powerful {
        assert_eq!(paths(&output), ["./a", "./b", "./closed/c", "./d", "a"]);
        assert!(errors.contains("files: 5 done, 2 failed, 0 cancelled"), "{errors}");
    } else {
        assert_eq!(paths(&output), ["./a", "./d", "a"]);
        assert!(errors.contains("digest: ./b: "), "{errors}");
        assert!(errors.contains("digest: ./closed: "), "{errors}");
        assert!(errors.contains("files: 3 done, 4 failed, 0 cancelled"), "{errors}");
    }
}

#[test]
fn no_name_reaches_the_terminal_raw() {
    let Some(tree) = Tree::new("legible") else { return };
    let output = tree.run(&["gone\n\u{1b}[2J"]);
    let errors = show(&output.stderr);
    assert!(errors.contains(r"digest: gone\n\u{1b}[2J: "), "{errors}");
}

#[test]
fn sums_up_on_standard_error() {
    let Some(tree) = Tree::new("summary") else { return };
    tree.file("a", "abc");
    tree.file("b", "");
    let output = tree.run(&["."]);
    let errors = show(&output.stderr);
    for part in ["files: 2 done, 0 failed, 0 cancelled", "bytes: 3 B in ", "/s", "queue time: ", "run time: "]
    {
        assert!(errors.contains(part), "{part:?} is not in {errors}");
    }
    assert!(!errors.contains(['\r', '\u{1b}']), "no progress bar in a pipe: {errors:?}");
}

#[test]
fn quiet_leaves_only_errors() {
    let Some(tree) = Tree::new("quiet") else { return };
    tree.file("a", "");
    let output = tree.run(&["-q", "."]);
    assert_eq!(show(&output.stderr), "");
    assert_eq!(paths(&output), ["./a"]);
    let output = tree.run(&["--quiet", "gone"]);
    assert_eq!(show(&output.stderr).lines().count(), 1);
}

#[test]
fn says_how_it_is_used() {
    let Some(tree) = Tree::new("usage") else { return };
    let wrong: &[&[&str]] = &[
        &[],
        &["--workers", "0", "."],
        &["--workers", "many", "."],
        &["--timeout", "soon", "."],
        &["--timeout=-1", "."],
        &["--per-file-timeout=nan", "."],
        &["--unknown", "."],
    ];
    for arguments in wrong {
        let output = tree.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    let output = tree.run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(show(&output.stdout).contains("symbolic link"));
}

#[test]
fn a_run_ends_at_its_timeout() {
    let Some(tree) = Tree::new("timeout") else { return };
    tree.file("a", "");
    tree.endless("b");
    tree.file("c", "");
    let started = Instant::now();
    let output = tree.run(&["--timeout", "1", "."]);
    assert!(started.elapsed() < AT_ONCE + Duration::from_secs(1), "took {:?}", started.elapsed());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(paths(&output)[0], "./a");
    let errors = show(&output.stderr);
    assert!(errors.contains("digest: ./b: deadline exceeded"), "{errors}");
    assert!(errors.contains("0 failed, 1 cancelled"), "{errors}");

    let output = tree.run(&["--timeout", "0", "."]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(show(&output.stdout), "");

    // More than a clock can count is no limit.
    let output = tree.run(&["--timeout", "1e19", "a"]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_file_ends_at_its_timeout_and_the_rest_is_done() {
    let Some(tree) = Tree::new("per-file") else { return };
    for name in ["a", "c", "e"] {
        tree.file(name, "");
    }
    tree.endless("b");
    tree.endless("d");
    // One worker: what waits behind a slow file is not slow itself.
    let output = tree.run(&["--workers", "1", "--per-file-timeout", "0.5", "."]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(paths(&output), ["./a", "./c", "./e"]);
    let errors = show(&output.stderr);
    assert!(errors.contains("digest: ./b: not read within 500ms"), "{errors}");
    assert!(errors.contains("digest: ./d: not read within 500ms"), "{errors}");
    assert!(errors.contains("files: 3 done, 2 failed, 0 cancelled"), "{errors}");
}

#[test]
fn lines_come_out_at_once_and_an_interrupt_ends_the_run() {
    let Some(tree) = Tree::new("interrupt") else {
        return;
    };
    tree.file("a", "");
    tree.endless("b");
    for n in 0..100 {
        tree.file(format!("c/{n:03}"), "");
    }
    let mut child = tree.start(&["--workers", "2", "."]);
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    assert_eq!(first, format!("{EMPTY}  ./a\n"), "it is out while the next one is being read");

    program::interrupt(&child);
    let sent = Instant::now();
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(sent.elapsed() < AT_ONCE, "took {:?}", sent.elapsed());
    assert_eq!(output.status.code(), Some(130));
    let errors = show(&output.stderr);
    assert!(errors.contains("digest: ./b: cancelled: SIGINT\n"), "{errors}");
    let done = 1 + rest.lines().count();
    let cancelled = errors.lines().filter(|line| line.ends_with(": cancelled: SIGINT")).count();
    assert!(!rest.contains("./b"), "{rest}");
    assert!(
        errors.contains(&format!("files: {done} done, 0 failed, {cancelled} cancelled")),
        "{done}, {errors}"
    );
}

#[test]
fn an_interrupted_walk_says_where_it_stopped() {
    let Some(tree) = Tree::new("walk") else { return };
    tree.file("0", "");
    tree.endless("a");
    for n in 0..100 {
        tree.file(format!("b/{n:03}"), "");
    }
    let mut child = tree.start(&["--workers", "1", "."]);
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    // The only worker is busy now, so the queue fills and the walk waits.
    thread::sleep(Duration::from_millis(300));
    program::interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let errors = show(&output.stderr);
    let last = errors.lines().find_map(|line| line.strip_prefix("digest: cancelled: SIGINT: "));
    let stopped = last.and_then(|line| line.strip_suffix(" and what comes after it was not begun"));
    let stopped: usize = stopped.and_then(|path| path.strip_prefix("./b/")?.parse().ok()).expect(&errors);
    for n in 0..stopped {
        assert!(errors.contains(&format!("digest: ./b/{n:03}: cancelled")), "{n} in {errors}");
    }
    assert!(errors.contains(&format!("files: 1 done, 0 failed, {} cancelled", stopped + 1)), "{errors}");
}

#[test]
fn an_output_that_nobody_reads_does_not_hold_an_interrupt() {
    let Some(tree) = Tree::new("full-pipe") else {
        return;
    };
    tree.many_files();
    let mut child = tree.start(&["."]);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "the pipe is full");

    program::interrupt(&child);
    let sent = Instant::now();
    let status = child.wait().unwrap();
    assert!(sent.elapsed() < AT_ONCE, "took {:?}", sent.elapsed());
    assert_eq!(status.code(), Some(130));
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(errors.contains("digest: the output is not taken"), "{errors}");
    assert!(errors.contains("files: "), "{errors}");
    drop(output);
}

#[test]
fn a_closed_output_ends_the_run_quietly() {
    let Some(tree) = Tree::new("closed-pipe") else {
        return;
    };
    tree.many_files();
    let mut child = tree.start(&["."]);
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(show(&output.stderr), "");
    assert_eq!(output.status.code(), Some(141));
}

#[test]
fn closed_output_and_closed_errors_do_not_panic() {
    let Some(tree) = Tree::new("both-closed") else {
        return;
    };
    tree.many_files();
    let mut child = tree.start(&[".", "gone"]);
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(141));

    let mut child = tree.start(&["gone"]);
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn an_output_without_room_is_an_error() {
    let Some(tree) = Tree::new("no-room") else { return };
    tree.file("a", "");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = tree.command(&["."]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(show(&output.stderr).contains("digest: standard output: "), "{}", show(&output.stderr));
}

/// A folder that goes away with the test.
struct Tree {
    root: PathBuf,
    program: PathBuf,
}

impl Tree {
    /// `None` where there is no program to test.
    fn new(name: &str) -> Option<Tree> {
        let program = program::find("digest")?;
        let root =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("digest-{name}-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        Some(Tree { root, program })
    }

    fn file(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn endless(&self, path: &str) {
        File::create(self.root.join(path)).unwrap().set_len(ENDLESS).unwrap();
    }

    /// More lines than a pipe holds.
    fn many_files(&self) {
        for n in 0..2000 {
            self.file(format!("{n:0100}"), "");
        }
    }

    fn odd_names(&self) {
        for name in
            ["plain", "two words", " lead", "trail ", "-dash", "--", "-", "*", "'", "\"", "ünï", "\u{1b}[1m"]
        {
            self.file(name, name);
        }
        for name in ["back\\slash", "\\", "\\n", "new\nline", "\n", "both\\\n\\"] {
            self.file(name, name);
            self.file(Path::new("in").join(name).join("file"), name);
        }
        self.file(OsStr::from_bytes(b"not\xffutf8"), "x");
        self.file(OsStr::from_bytes(b"\xc3"), "x");
        self.file("x".repeat(255), "long");
        self.file("deep/er/and/deep/er/file", "deep");
        self.file(".hidden/.file", "");
        for size in [0, 1, 55, 56, 63, 64, 65, 65_535, 65_536, 65_537, 1_000_000] {
            let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            self.file(format!("sizes/{size}"), content);
        }
        fs::create_dir(self.root.join("empty")).unwrap();
    }

    /// What `sha256sum` says about the files, in the order that is expected.
    fn sha256sum(&self) -> Vec<u8> {
        fn collect(folder: &Path, shown: &Path, files: &mut Vec<OsString>) {
            let mut names: Vec<OsString> =
                fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
            for name in names {
                let (path, shown) = (folder.join(&name), shown.join(&name));
                if path.is_dir() {
                    collect(&path, &shown, files);
                } else {
                    files.push(OsString::from_vec(shown.as_os_str().as_bytes().to_vec()));
                }
            }
        }
        let mut files = Vec::new();
        collect(&self.root, Path::new("."), &mut files);
        let output =
            Command::new("sha256sum").arg("--").args(files).current_dir(&self.root).output().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program::command(&self.program);
        command.args(arguments).current_dir(&self.root).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::set_permissions(self.root.join("closed"), Permissions::from_mode(0o700));
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// The paths of the lines, for names without escapes.
fn paths(output: &Output) -> Vec<&str> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| line.split_once("  ").unwrap().1).collect()
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
