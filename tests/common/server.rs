//! A `redis-server` for one test, on loopback.

#![allow(dead_code, reason = "every test file is a crate of its own and uses its own part of this")]

use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use workpath::{JobId, RedisQueue};

use crate::common::{PATIENCE, eventually};

/// A server that is gone with the test.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    pub(crate) options: Vec<String>,
}

impl Server {
    pub(crate) fn start(name: &str, options: &[&str]) -> Option<Server> {
        let folder = std::env::temp_dir().join(format!("workpath-redis-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let port = free_port();
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        match Server::spawn(&folder, port, &options) {
            Ok(process) => {
                let server = Server { process, folder, port, options };
                server.await_start();
                Some(server)
            }
            Err(error) => {
                let _ = std::fs::remove_dir_all(&folder);
                eprintln!("SKIPPED, since redis-server cannot be started: {error}");
                None
            }
        }
    }

    pub(crate) fn spawn(folder: &PathBuf, port: u16, options: &[String]) -> std::io::Result<Child> {
        Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string(), "--dir"])
            .arg(folder)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    }

    pub(crate) fn await_start(&self) {
        eventually("the server listens", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn queue(&self) -> RedisQueue {
        let mut queue = RedisQueue::connect(&self.url(), "q");
        let start = Instant::now();
        // It may be reading its file.
        while queue.as_ref().is_err_and(|error| error.is_retryable()) && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
            queue = RedisQueue::connect(&self.url(), "q");
        }
        queue.unwrap()
    }

    pub(crate) fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).query(&mut connection).unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.process = Server::spawn(&self.folder, self.port, &self.options).unwrap();
        self.await_start();
    }

    /// How many results there are for each of these orders.
    pub(crate) fn results(&self, ids: &[JobId]) -> HashMap<u64, usize> {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        let mut counts = HashMap::new();
        for id in ids {
            let count = redis::cmd("LLEN").arg(format!("wp:{{q}}:r:{id}")).query(&mut connection).unwrap();
            *counts.entry(count).or_default() += 1;
        }
        counts
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A node of a cluster takes the one 10,000 above it as well.
pub(crate) fn free_port() -> u16 {
    let any = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    std::iter::repeat_with(any).find(|port| *port < 55_000).unwrap()
}
