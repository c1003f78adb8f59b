//! Connections to the server: a few that are kept, timeouts on every one, and what errors mean.

use std::fmt;
use std::time::Duration;

use ::redis::{
    Client, Cmd, Connection, ConnectionAddr, ConnectionLike, ErrorKind, IntoConnectionInfo, RedisError,
    RedisResult, ServerErrorKind, Value, io::tcp::TcpSettings,
};
use parking_lot::Mutex;

use super::lua::Scripts;
use crate::orders::queue::{QueueError, QueueErrorKind};

/// How long the server may take to accept a connection, and to answer beyond the time that it was asked to wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How many connections are kept while nobody uses them.
const KEPT: usize = 16;

pub(super) struct Server {
    client: Client,
    /// The queue and the server, for errors.
    what: String,
    idle: Mutex<Vec<Connection>>,
    pub(super) scripts: Scripts,
    pub(super) keys: Vec<String>,
}

impl Server {
    /// Looks whether there is a server that can have this queue, and prepares it.
    pub(super) fn connect(url: &str, queue: &str) -> Result<Server, QueueError> {
        let invalid = |why: &dyn fmt::Display| {
            QueueError::new(
                QueueErrorKind::Invalid,
                format!(
                    "the queue {queue:?}: its address is not redis://[USER:PASSWORD@]HOST[:PORT][/DB]: {why}"
                ),
            )
        };
        // Braces mark the hash tag, and control characters do not belong in what people have to read.
        if queue.is_empty()
            || queue.len() > 200
            || queue.contains(|c: char| "{}".contains(c) || c.is_control())
        {
            let text = format!(
                "the name of the queue {queue:?} must have 1 to 200 bytes, without braces and control characters"
            );
            return Err(QueueError::new(QueueErrorKind::Invalid, text));
        }
        let info = url.into_connection_info().map_err(|error| invalid(&error))?;
        let address = match info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                format!("{host}:{port}")
            }
            other => other.to_string(),
        };
        #[cfg(feature = "redis-tls")]
        if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            // Without one it would panic. The program may have chosen another.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let settings = info.redis_settings().clone().set_protocol(::redis::ProtocolVersion::RESP2);
        let info = info
            .set_redis_settings(settings.set_skip_set_lib_name())
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = Client::open(info).map_err(|error| invalid(&error))?;
        let of_queue = |end: &str| format!("wp:{{{queue}}}:{end}");
        let server = Server {
            client,
            what: format!("the queue {queue:?} at {address}"),
            idle: Mutex::default(),
            scripts: Scripts::new(),
            keys: ["s:0", "s:1", "s:2", "i", "z", "zb", "u", "dead", "d", "n", "h", "r:"]
                .map(of_queue)
                .to_vec(),
        };
        let mut connection = server.open(PATIENCE).map_err(|error| server.explain(&error))?;
        server.check_version(&mut connection)?;
        server.prepare(&mut connection).map_err(|error| server.explain(&error))?;
        server.keep(connection);
        Ok(server)
    }

    pub(super) fn name(&self) -> &str {
        &self.what
    }

    /// The key of a result, or of whatever else ends like this.
    pub(super) fn key(&self, end: &str) -> String {
        let results = &self.keys[11];
        format!("{}{end}", &results[..results.len() - 2])
    }

    fn check_version(&self, connection: &mut Connection) -> Result<(), QueueError> {
        let info: String = match ::redis::cmd("INFO").query(connection) {
            Ok(info) => info,
            // Some servers tell only their administrators.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => return Ok(()),
            Err(error) => return Err(self.explain(&error)),
        };
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let version = field("redis_version").unwrap_or("unknown").trim();
        let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
        let (major, minor) = (parts.next().flatten(), parts.next().flatten());
        if (major, minor) < (Some(6), Some(2)) {
            let text = format!("{}: its version is {version:?}, and must be 6.2 or later", self.what);
            return Err(QueueError::new(QueueErrorKind::Version, text));
        }
        let policy = field("maxmemory_policy").unwrap_or("noeviction").trim();
        if policy != "noeviction" && field("maxmemory").is_some_and(|limit| limit.trim() != "0") {
            crate::panics::log(
                log::Level::Warn,
                format_args!("{}: maxmemory-policy is {policy}: the server may throw orders away", self.what),
            );
        }
        Ok(())
    }

    fn open(&self, patience: Duration) -> RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(patience)?;
        connection.set_write_timeout(Some(patience))?;
        Ok(connection)
    }

    /// Loads the scripts, and makes the groups.
    fn prepare(&self, connection: &mut Connection) -> RedisResult<()> {
        connection.set_read_timeout(Some(PATIENCE))?;
        for script in self.scripts.all() {
            script.load(connection)?;
        }
        ask(connection, &self.script(&self.scripts.set_up)).map(drop)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < KEPT {
            idle.push(connection);
        }
    }

    /// The call of a script, without its arguments.
    pub(super) fn script(&self, script: &::redis::Script) -> Cmd {
        let mut cmd = ::redis::cmd("EVALSHA");
        cmd.arg(script.get_hash()).arg(self.keys.len()).arg(&self.keys);
        cmd
    }

    /// Asks the server for this, which may keep it waiting for so long.
    pub(super) fn ask(&self, cmd: &Cmd, block: Duration) -> Result<Value, QueueError> {
        self.with(block, PATIENCE, |connection, _| ask(connection, cmd)).map_err(|error| self.explain(&error))
    }

    /// Does something on a connection that nobody else uses meanwhile. What fails because the connection is an old one, or
    /// the server has been emptied or restarted, is tried once more; the argument says if the first attempt may have been
    /// successful all the same.
    pub(super) fn with<T>(
        &self,
        block: Duration,
        patience: Duration,
        mut call: impl FnMut(&mut Connection, bool) -> RedisResult<T>,
    ) -> RedisResult<T> {
        let kept = self.idle.lock().pop();
        let is_old = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.open(patience)?,
        };
        connection.set_read_timeout(Some(block.saturating_add(patience)))?;
        let (mut answer, mut again) = (call(&mut connection, false), false);
        if let Err(error) = &answer {
            if error.kind() == ErrorKind::Io && is_old && !error.is_timeout() {
                // The others are as old.
                self.idle.lock().clear();
                connection = self.open(patience)?;
                connection.set_read_timeout(Some(block.saturating_add(patience)))?;
                (answer, again) = (call(&mut connection, true), true);
            }
        }
        if let Err(error) = &answer {
            if is_unprepared(error) {
                self.prepare(&mut connection)?;
                connection.set_read_timeout(Some(block.saturating_add(patience)))?;
                answer = call(&mut connection, again);
            }
        }
        // Of no use are connections with half an answer in them, and those to a server that is only a replica by now.
        let is_sound = match &answer {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) => false,
            Err(error) => matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension),
        };
        if is_sound {
            self.keep(connection);
        }
        answer
    }

    pub(super) fn explain(&self, error: &RedisError) -> QueueError {
        let kind = match error.kind() {
            ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm) => {
                QueueErrorKind::Denied
            }
            ErrorKind::InvalidClientConfig
            | ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::CrossSlot) => {
                QueueErrorKind::Invalid
            }
            // It does not help to try again.
            ErrorKind::Io if error.to_string().to_lowercase().contains("certificate") => {
                QueueErrorKind::Denied
            }
            ErrorKind::Io
            | ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly,
            ) => QueueErrorKind::Unavailable,
            _ => {
                // Older servers put the code of an error inside a script into the text.
                let text =
                    format!("{} {}", error.code().unwrap_or_default(), error.detail().unwrap_or_default());
                let says = |codes: &[&str]| codes.iter().any(|code| text.contains(code));
                if says(&["NOAUTH", "WRONGPASS", "NOPERM"]) {
                    QueueErrorKind::Denied
                } else if says(&["OOM"]) {
                    QueueErrorKind::Full
                } else if says(&["BUSY", "MISCONF", "NOREPLICAS", "READONLY", "LOADING", "UNBLOCKED"]) {
                    QueueErrorKind::Unavailable
                } else if says(&["unknown command"]) {
                    QueueErrorKind::Version
                } else {
                    QueueErrorKind::Corrupt
                }
            }
        };
        QueueError::new(kind, format!("{}: {error}", self.what))
    }

    /// For an answer that is none.
    pub(super) fn mixed_up(&self) -> QueueError {
        QueueError::new(
            QueueErrorKind::Corrupt,
            format!("{}: an answer of another form than expected", self.what),
        )
    }
}

fn is_unprepared(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
        || error.code() == Some("NOGROUP")
        || error.detail().is_some_and(|detail| detail.contains("NOGROUP"))
}

/// One command and its answer.
pub(super) fn ask(connection: &mut Connection, cmd: &Cmd) -> RedisResult<Value> {
    checked(connection.req_command(cmd)?)
}

/// Several commands in one go, and the answer to the last, or the first error.
pub(super) fn ask_all(connection: &mut Connection, cmds: &[Cmd]) -> RedisResult<Vec<Value>> {
    let mut packed = Vec::new();
    cmds.iter().for_each(|cmd| cmd.write_packed_command(&mut packed));
    connection.req_packed_commands(&packed, 0, cmds.len())?.into_iter().map(checked).collect()
}

fn checked(value: Value) -> RedisResult<Value> {
    match value {
        Value::ServerError(error) => Err(error.into()),
        value => Ok(value),
    }
}
