//! Where a run was made: the machine, the system, the compiler and the versions of what was measured.

use std::fmt;
use std::fs;
use std::process::Command;
use std::thread;

/// What the reports name.
#[derive(Clone, Debug)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub virtualized: bool,
    pub system: String,
    pub rustc: &'static str,
    pub allocator: String,
}

impl Machine {
    /// Reads what this machine says of itself; what it does not say is "unknown".
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |key: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        Self {
            cpu: cpu_name(&field),
            cores: thread::available_parallelism().map_or(1, usize::from),
            virtualized: field("flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            system: system(),
            rustc: env!("PEERS_RUSTC"),
            allocator: allocator(),
        }
    }

    /// The line under a title.
    pub fn line(&self) -> String {
        let Self { cpu, cores, virtualized, system, rustc, allocator } = self;
        let kind = if *virtualized { ", virtual machine" } else { "" };
        let compiler = rustc.split(" (").next().unwrap_or(rustc);
        format!("{cpu}, {cores} cores{kind} · {system} · {compiler} · {allocator}")
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())
    }
}

/// What to say before a measurement on a machine that does something else as well.
pub fn warn_if_busy() {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let last_minute = load.split(' ').next().and_then(|number| number.parse::<f64>().ok());
    if let Some(load) = last_minute.filter(|load| *load > 0.5) {
        eprintln!("this machine is busy (load {load}): its figures will be of that, too");
    }
}

/// Virtual machines often hide the model's number; the family says at least which generation it is.
fn cpu_name(field: &impl Fn(&str) -> Option<String>) -> String {
    let Some(name) = field("model name") else {
        return "unknown processor".into();
    };
    if name.contains(|c: char| c.is_ascii_digit()) {
        return name;
    }
    match (field("cpu family"), field("model\t")) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        _ => name,
    }
}

fn system() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // What follows the number names a build, not a version.
    let number = release.trim().split('-').next().unwrap_or_default().to_owned();
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty =
        os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).map(|name| name.trim_matches('"'));
    match pretty {
        Some(pretty) => format!("{pretty}, Linux {number}"),
        None => format!("{} {number}", std::env::consts::OS),
    }
}

fn allocator() -> String {
    if cfg!(feature = "count") {
        return "counting allocator".into();
    }
    if cfg!(feature = "mimalloc") {
        // The outer crate's number is its own; the C library's version is in its build metadata, if anywhere.
        return format!("mimalloc (crate {})", version("mimalloc"));
    }
    let libc = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    match libc {
        Ok(output) if output.status.success() => {
            format!("{} malloc", String::from_utf8_lossy(&output.stdout).trim())
        }
        _ => "system malloc".into(),
    }
}

/// The version of a crate in this crate's lock file, or "?".
pub fn version(name: &str) -> &'static str {
    let versions = env!("PEERS_VERSIONS").split(',').filter_map(|entry| entry.split_once('='));
    versions.into_iter().find(|(named, _)| *named == name).map_or("?", |(_, version)| version)
}
