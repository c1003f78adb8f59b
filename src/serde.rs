//! What serde makes of records, numbers, statuses and events. Without derived code: that would bring six crates more.
//!
//! Field names stay as they are. New fields may come, and who reads ignores those that it does not know.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde_core::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_core::ser::{Serialize, SerializeStruct, Serializer};

use crate::clock::{Tick, WallOffset};
use crate::delegator::{Places, ShutdownReport, Stats};
use crate::error::{Error, ErrorKind, SubmitErrorKind};
use crate::events::Event;
use crate::id::JobId;
use crate::job::Job;
use crate::latency::{Latencies, LatenciesByName, Latency};
use crate::notes::{Checkpoint, Progress};
use crate::priority::Priority;
use crate::provenance::{Origin, Provenance};
use crate::record::JobRecord;
use crate::state::JobState;
use crate::status::WorkerStatus;
use crate::tokens::Token;

/// A struct of a type with these fields, to be made from these values.
macro_rules! write_struct {
    ($serializer:expr, $type:literal { $($field:literal: $value:expr,)* }) => {{
        let mut fields = $serializer.serialize_struct($type, [$($field),*].len())?;
        $(fields.serialize_field($field, &$value)?;)*
        fields.end()
    }};
}

macro_rules! serialize {
    ($($type:ident { $($field:ident),* $(,)? })*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut fields =
                    serializer.serialize_struct(stringify!($type), [$(stringify!($field)),*].len())?;
                $(fields.serialize_field(stringify!($field), &self.$field)?;)*
                fields.end()
            }
        }
    )*};
}

/// A field that is missing has its default.
macro_rules! deserialize {
    ($($type:ident { $($field:ident),* $(,)? })*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                struct Fields;

                impl<'de> Visitor<'de> for Fields {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(stringify!($type))
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$type, A::Error> {
                        let mut value = $type::default();
                        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                            match &*key {
                                $(stringify!($field) => value.$field = map.next_value()?,)*
                                _ => drop(map.next_value::<IgnoredAny>()?),
                            }
                        }
                        Ok(value)
                    }

                    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<$type, A::Error> {
                        let mut value = $type::default();
                        $(value.$field = seq.next_element()?.unwrap_or_default();)*
                        Ok(value)
                    }
                }

                deserializer.deserialize_struct(stringify!($type), &[$(stringify!($field)),*], Fields)
            }
        }
    )*};
}

macro_rules! both {
    ($($fields:tt)*) => {
        serialize! { $($fields)* }
        deserialize! { $($fields)* }
    };
}

both! {
    Stats {
        scheduled, queued, running, stuck, submitted, completed, failed, panicked, cancelled, timed_out, retried,
        rejected, dropped, keys, places,
    }
    Places { high, normal, low }
    Latencies { queue_time, run_time, round_trip_time }
    LatenciesByName { names, others }
    Progress { done, total }
    LatencyData { count, p50_ns, p90_ns, p99_ns, max_ns, buckets }
}

impl Serialize for WorkerStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write_struct!(serializer, "WorkerStatus" {
            "index": self.index,
            "thread_name": self.thread_name,
            "running": self.running,
            "job_name": self.job_name,
            "running_for_ns": self.running_for.map(nanos),
            "overdue_ns": self.overdue.map(nanos),
            "stuck": self.stuck,
            "checkpoint": self.checkpoint,
            "progress": self.progress,
        })
    }
}

impl Serialize for Checkpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write_struct!(serializer, "Checkpoint" {
            "text": self.text(),
            "file": self.file(),
            "line": self.line(),
            "at_unix_ms": self.unix_millis(),
        })
    }
}

/// A distribution: what is usually asked for, and the buckets with the longest time and the count of each.
#[derive(Default)]
struct LatencyData {
    count: u64,
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    max_ns: u64,
    buckets: Vec<(u64, u64)>,
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let data = LatencyData {
            count: self.count(),
            p50_ns: nanos(self.p50()),
            p90_ns: nanos(self.p90()),
            p99_ns: nanos(self.p99()),
            max_ns: nanos(self.max()),
            buckets: self.tops_and_counts().collect(),
        };
        data.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Latency, D::Error> {
        let LatencyData { max_ns, buckets, .. } = LatencyData::deserialize(deserializer)?;
        Ok(Latency::of_tops_and_counts(max_ns, buckets))
    }
}

macro_rules! tokens {
    ($($type:ident),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.token())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let text = Cow::<'_, str>::deserialize(deserializer)?;
                let found = $type::ALL.iter().find(|value| value.token() == text);
                found.copied().ok_or_else(|| {
                    de::Error::custom(format_args!("{text:?} is no {}", stringify!($type)))
                })
            }
        }
    )*};
}

tokens!(JobState, Priority, ErrorKind, SubmitErrorKind, Origin);

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JobId, D::Error> {
        Cow::<'_, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Provenance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wall = WallOffset::current(Tick::now());
        write_struct!(serializer, "Provenance" {
            "origin": self.origin(),
            "inherited": self.is_inherited(),
            "location": self.location().map(ToString::to_string),
            "at_unix_ms": wall.unix_millis(self.tick()),
        })
    }
}

impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write_struct!(serializer, "Error" {
            "kind": self.kind(),
            "text": self.to_string(),
            "why": self.why(),
        })
    }
}

impl Serialize for JobRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (created, started, completed) = self.unix_millis();
        write_struct!(serializer, "JobRecord" {
            "id": self.id(),
            "name": self.name(),
            "state": self.state(),
            "worker": self.worker(),
            "attempts": self.attempts(),
            "created_unix_ms": created,
            "started_unix_ms": started,
            "completed_unix_ms": completed,
            "queue_ns": nanos(self.queue_time()),
            "run_ns": nanos(self.run_time()),
            "round_trip_ns": nanos(self.round_trip_time()),
            "overrun_ns": self.overrun().map(nanos),
            "payload_bytes": self.payload().map(<[u8]>::len),
            "error": self.error(),
            "checkpoint": self.checkpoint(),
            "progress": self.progress(),
        })
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Event::Submitted { id, name } => write_struct!(serializer, "Event" {
                "event": "submitted",
                "id": id,
                "name": name,
            }),
            Event::Rejected { id, name, why } => write_struct!(serializer, "Event" {
                "event": "rejected",
                "id": id,
                "name": name,
                "why": why,
            }),
            Event::Joined { id, name, to } => write_struct!(serializer, "Event" {
                "event": "joined",
                "id": id,
                "name": name,
                "to": to,
            }),
            Event::Started { id, name, worker } => write_struct!(serializer, "Event" {
                "event": "started",
                "id": id,
                "name": name,
                "worker": worker,
            }),
            Event::Checkpoint { id, name, worker, checkpoint } => write_struct!(serializer, "Event" {
                "event": "checkpoint",
                "id": id,
                "name": name,
                "worker": worker,
                "checkpoint": checkpoint,
            }),
            Event::Retrying { id, name, attempt, error, delay } => write_struct!(serializer, "Event" {
                "event": "retrying",
                "id": id,
                "name": name,
                "attempt": attempt,
                "error": error,
                "delay_ns": nanos(*delay),
            }),
            Event::Stuck { id, name, worker, overdue, checkpoint } => write_struct!(serializer, "Event" {
                "event": "stuck",
                "id": id,
                "name": name,
                "worker": worker,
                "overdue_ns": nanos(*overdue),
                "checkpoint": checkpoint,
            }),
            Event::WorkerReplaced { worker, by } => write_struct!(serializer, "Event" {
                "event": "worker_replaced",
                "worker": worker,
                "by": by,
            }),
            Event::Finished(record) => write_struct!(serializer, "Event" {
                "event": "finished",
                "record": record,
            }),
            Event::ShuttingDown => write_struct!(serializer, "Event" {
                "event": "shutting_down",
            }),
            Event::Missed(count) => write_struct!(serializer, "Event" {
                "event": "missed",
                "count": count,
            }),
        }
    }
}

/// A job by its name; what it does is code.
struct Unstarted<'a>(&'a Job);

impl Serialize for Unstarted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write_struct!(serializer, "Job" {
            "id": self.0.id(),
            "name": self.0.name(),
        })
    }
}

impl Serialize for ShutdownReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let unstarted: Vec<_> = self.unstarted.iter().map(Unstarted).collect();
        write_struct!(serializer, "ShutdownReport" {
            "total": self.total(),
            "completed": self.completed,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "unstarted": unstarted,
            "stuck": self.stuck,
        })
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
