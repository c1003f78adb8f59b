//! The operation: fetch one page, and stop at once when told to.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use workpath::{Context, Error, Operation};

use crate::url::Url;

/// The longest that a host may keep a single call waiting. The end of the crawl may come earlier.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longer answers are not taken: what comes from outside needs a bound.
const LONGEST: u64 = 1 << 20;

/// Fetches one page. The payload is what the host sent as its body.
pub(crate) struct Fetch(pub(crate) Url);

impl Operation for Fetch {
    fn name(&self) -> Cow<'_, str> {
        self.0.to_string().into()
    }

    fn run(&self, ctx: &Context) -> Result<Vec<u8>, Error> {
        // What the end of the crawl broke off is not the host's fault.
        self.fetch(ctx).map_err(|error| ctx.error().unwrap_or(error))
    }
}

impl Fetch {
    fn fetch(&self, ctx: &Context) -> Result<Vec<u8>, Error> {
        let mut stream = TcpStream::connect_timeout(&self.0.host, ctx.io_timeout(PATIENCE))?;
        stream.set_read_timeout(Some(ctx.io_timeout(PATIENCE)))?;
        stream.set_write_timeout(Some(ctx.io_timeout(PATIENCE)))?;

        // A timeout knows the deadline, but not Ctrl-C. Without its connection, a blocked call returns.
        let connection = stream.try_clone()?;
        let hang_up = ctx.on_done(move || {
            let _ = connection.shutdown(Shutdown::Both);
        });
        let body = self.exchange(&mut stream);
        hang_up.stop();
        body
    }

    fn exchange(&self, stream: &mut TcpStream) -> Result<Vec<u8>, Error> {
        let Url { host, path } = &self.0;
        // In one piece, and not a packet for each part.
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(LONGEST + 1).read_to_end(&mut answer)?;
        if answer.len() as u64 > LONGEST {
            return Err(Error::new(Failure::TooLong));
        }
        body_of(&answer).map_err(Error::new)
    }
}

/// Why an answer has no page in it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another status than 200, with its words.
    Status(String),
    BrokenOff,
    TooLong,
    NotHttp,
}

impl Failure {
    /// What the failures of a crawl are counted by.
    pub(crate) fn kind_of(error: &Error) -> String {
        let Some(cause) = error.get_ref() else {
            return "panicked".to_owned();
        };
        match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
            // Either, for a read that has timed out.
            Some(ErrorKind::WouldBlock | ErrorKind::TimedOut) => "no answer in time".to_owned(),
            _ => cause.to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Status(status) => status,
            Failure::BrokenOff => "broken off",
            Failure::TooLong => "too long",
            Failure::NotHttp => "not HTTP",
        })
    }
}

impl StdError for Failure {}

fn body_of(answer: &[u8]) -> Result<Vec<u8>, Failure> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or(match answer {
        [] => Failure::BrokenOff,
        _ => Failure::NotHttp,
    })?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| Failure::NotHttp)?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).ok_or(Failure::NotHttp)?;
    if status.split(' ').next() != Some("200") {
        return Err(Failure::Status(status.to_owned()));
    }
    let length = |line: &str| {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") { value.trim().parse::<usize>().ok() } else { None }
    };
    let body = &answer[end + 4..];
    match lines.find_map(length) {
        Some(length) if length > body.len() => Err(Failure::BrokenOff),
        _ => Ok(body.to_vec()),
    }
}
