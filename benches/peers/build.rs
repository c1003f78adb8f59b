//! Hands the compiler's version and the locked versions of all contenders to the program, which names them in its report.

use std::{env, fs, path::Path, process::Command};

const NAMED: [&str; 10] = [
    "workpath",
    "rayon",
    "rayon-core",
    "rusty_pool",
    "threadpool",
    "tokio",
    "crossbeam-channel",
    "oneshot",
    "mimalloc",
    "libmimalloc-sys",
];

fn main() {
    let home = env::var("CARGO_MANIFEST_DIR").expect("cargo sets the manifest directory");
    let lock = Path::new(&home).join("Cargo.lock");
    println!("cargo:rerun-if-changed={}", lock.display());
    println!("cargo:rerun-if-changed=build.rs");

    let text = fs::read_to_string(&lock).expect("cargo writes Cargo.lock before it runs a build script");
    let versions: Vec<String> =
        packages(&text).filter(|(name, _)| NAMED.contains(name)).map(|(n, v)| format!("{n}={v}")).collect();
    println!("cargo:rustc-env=PEERS_VERSIONS={}", versions.join(","));

    let rustc = env::var("RUSTC").expect("cargo names the compiler");
    let output = Command::new(rustc).arg("--version").output().expect("the compiler runs");
    println!("cargo:rustc-env=PEERS_RUSTC={}", String::from_utf8_lossy(&output.stdout).trim());
}

/// Name and version of each `[[package]]` of a lock file.
fn packages(lock: &str) -> impl Iterator<Item = (&str, &str)> {
    lock.split("[[package]]").skip(1).filter_map(|entry| {
        let field = |key: &str| {
            entry.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'))
        };
        Some((field("name")?, field("version")?))
    })
}
