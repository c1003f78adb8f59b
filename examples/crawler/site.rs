//! The site to crawl: made up, on four ports of the loopback interface, and served by a delegator of its own.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use workpath::{Canceller, Context, Delegator, Error, Job, Retention, Shutdown, Submitter};

use crate::url::Url;

/// Page `n` is on host `n % HOSTS`.
const HOSTS: usize = 4;

/// What a slow page takes.
const SLOW: Duration = Duration::from_millis(100);

/// How long a visitor may take to say what he wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Requests longer than this are not read to their end.
const LONGEST: usize = 8 * 1024;

/// A site that is served until it is dropped.
pub(crate) struct Site {
    pages: Arc<Pages>,
    delegator: Delegator,
    open: Canceller,
    doors: Vec<JoinHandle<()>>,
}

struct Pages {
    hosts: Vec<Host>,
    /// How often each page was asked for.
    asked: Vec<AtomicUsize>,
}

struct Host {
    address: SocketAddr,
    visitors: AtomicUsize,
    most_visitors: AtomicUsize,
}

impl Site {
    /// Makes a site of so many pages and opens it. `visitors` are served at a time.
    pub(crate) fn open(pages: usize, visitors: usize) -> io::Result<Site> {
        let (ctx, open) = Context::background().with_cancel();
        let delegator = Delegator::builder()
            .workers(visitors)
            .thread_name("site")
            .retain(Retention::none())
            .build()
            .map_err(io::Error::other)?;
        let listen = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listeners: Vec<TcpListener> = (0..HOSTS).map(listen).collect::<io::Result<_>>()?;
        let host = |listener: &TcpListener| {
            let address = listener.local_addr()?;
            Ok(Host { address, visitors: AtomicUsize::new(0), most_visitors: AtomicUsize::new(0) })
        };
        let hosts = listeners.iter().map(host).collect::<io::Result<_>>()?;
        let asked = (0..pages).map(|_| AtomicUsize::new(0)).collect();
        let mut site = Site { pages: Arc::new(Pages { hosts, asked }), delegator, open, doors: Vec::new() };
        for (host, listener) in listeners.into_iter().enumerate() {
            let (ctx, pages, jobs) = (ctx.clone(), site.pages.clone(), site.delegator.submitter());
            let door = move || let_in(&ctx, &listener, host, &pages, &jobs);
            site.doors.push(thread::Builder::new().name(format!("door {host}")).spawn(door)?);
        }
        Ok(site)
    }

    /// The page from which all others can be reached.
    pub(crate) fn start(&self) -> Url {
        self.pages.url(0)
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = SocketAddr> {
        self.pages.hosts.iter().map(|host| host.address)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.open.cancel();
        self.delegator.shutdown(Shutdown::cancel());
        for (door, address) in self.doors.drain(..).zip(self.pages.hosts.iter().map(|host| host.address)) {
            // The last visitor, who is not let in. If even he cannot come, the thread goes with the program.
            if TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_ok() {
                let _ = door.join();
            }
        }
    }
}

/// What the site has seen of its visitors.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked: Vec<usize> = self.pages.asked.iter().map(|times| times.load(Ordering::Relaxed)).collect();
        let requests: usize = asked.iter().sum();
        let pages = asked.iter().filter(|times| **times > 0).count();
        let most = self.pages.hosts.iter().map(|host| host.most_visitors.load(Ordering::Relaxed)).max();
        let most = most.unwrap_or_default();
        write!(
            f,
            "{requests} requests for {pages} of {} pages, at most {most} at a time on a host",
            asked.len()
        )
    }
}

/// Makes a job of every connection, until the site is closed.
fn let_in(ctx: &Context, listener: &TcpListener, host: usize, pages: &Arc<Pages>, jobs: &Submitter) {
    for connection in listener.incoming() {
        let Ok(stream) = connection else {
            // Out of files, perhaps. Some will be closed.
            if ctx.sleep(Duration::from_millis(10)).is_ok() {
                continue;
            }
            return;
        };
        let pages = Arc::clone(pages);
        let serve = Job::new("visitor", move |ctx| pages.serve(ctx, host, &stream).map(|()| Vec::new()));
        if ctx.is_done() || jobs.submit(serve.with_context(ctx)).is_err() {
            return;
        }
    }
}

impl Pages {
    fn url(&self, page: usize) -> Url {
        Url { host: self.hosts[page % HOSTS].address, path: format!("/page/{page}") }
    }

    /// Reads a request, and answers it.
    fn serve(&self, ctx: &Context, host: usize, mut stream: &TcpStream) -> Result<(), Error> {
        let host = &self.hosts[host];
        let visitors = 1 + host.visitors.fetch_add(1, Ordering::Relaxed);
        host.most_visitors.fetch_max(visitors, Ordering::Relaxed);
        let answer = self.answer(ctx, stream);
        // Before the answer, after which the visitor may come again.
        host.visitors.fetch_sub(1, Ordering::Relaxed);
        stream.set_write_timeout(Some(ctx.io_timeout(PATIENCE)))?;
        Ok(stream.write_all(&answer?)?)
    }

    fn answer(&self, ctx: &Context, mut stream: &TcpStream) -> Result<Vec<u8>, Error> {
        stream.set_read_timeout(Some(ctx.io_timeout(PATIENCE)))?;
        let mut request = Vec::new();
        let mut chunk = [0; 1024];
        while !request.ends_with(b"\r\n\r\n") && request.len() < LONGEST {
            match stream.read(&mut chunk) {
                Ok(0) => return Err("hung up".into()),
                Ok(read) => request.extend(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let page = std::str::from_utf8(line)?
            .strip_prefix("GET /page/")
            .and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok())
            .filter(|page| *page < self.asked.len());
        let Some(page) = page else {
            return Ok(reply("404 Not Found", "no such page"));
        };
        self.asked[page].fetch_add(1, Ordering::Relaxed);
        if page % 8 == 5 {
            ctx.sleep(SLOW)?;
        }
        // Only leaves fail, so that the rest can be reached.
        let leaf = 2 * page + 1 >= self.asked.len();
        Ok(match page % 10 {
            3 if leaf => reply("500 Internal Server Error", "no luck today"),
            7 if leaf => reply("404 Not Found", "moved away"),
            9 if leaf => {
                let mut whole = reply("200 OK", &self.html(page));
                whole.truncate(whole.len() - 10);
                whole
            }
            _ => reply("200 OK", &self.html(page)),
        })
    }

    /// Links down a binary tree, up again, to itself, across by a path alone, and to somewhere else.
    fn html(&self, page: usize) -> String {
        let down = [2 * page + 1, 2 * page + 2].into_iter().filter(|page| *page < self.asked.len());
        let mut links: Vec<String> = down.map(|page| self.url(page).to_string()).collect();
        links.push(self.url(page.saturating_sub(1) / 2).to_string());
        links.push("#top".to_owned());
        links.push(format!("/page/{}#here", page % HOSTS));
        links.push("http://elsewhere.example/".to_owned());
        let links: String = links.iter().map(|link| format!("<li><a href=\"{link}\">{link}</a>\n")).collect();
        format!("<!doctype html>\n<title>Page {page}</title>\n<ul>\n{links}</ul>\n")
    }
}

fn reply(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
