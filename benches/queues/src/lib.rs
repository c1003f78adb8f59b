//! What the programs of this folder share.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A `redis-server` on loopback with an append-only file. It and its folder are gone when it is dropped.
pub struct Server {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl Server {
    /// Its files go below this folder; `fsync` is its `appendfsync`.
    pub fn start(folder: &Path, fsync: &str) -> io::Result<Server> {
        let folder = folder.join(format!("redis-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", fsync])
            .args(["--port", &port.to_string(), "--dir"])
            .arg(&folder)
            .stdout(Stdio::null())
            .spawn()?;
        let server = Server { process, folder, port };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Prints, for each of these rows, the median, the least and the most of what was measured.
pub fn print<'a>(rows: impl IntoIterator<Item = (&'a str, Vec<f64>)>) {
    println!("{:40} {:>10}   {:>10} {:>10}   per second", "", "median", "least", "most");
    for (name, mut rates) in rows {
        rates.sort_by(f64::total_cmp);
        let (median, last) = (rates[rates.len() / 2], rates[rates.len() - 1]);
        println!("{name:40} {median:>10.0}   {:>10.0} {last:>10.0}", rates[0]);
    }
}
