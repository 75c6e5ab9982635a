//! Streams of weight versions: what teacher servers serve, whatever makes the versions.

use std::path::PathBuf;

use crate::{Device, Job, Mixture, SnapshotAt, Source, Teacher};

/// One stream. A student that teaches its peers is one of its own name, whoever learns from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    pub name: String,
    pub versions: Versions,
    /// Teacher servers that answer for it.
    pub replicas: u32,
    pub device: Device,
    /// Where recorded soft targets of a fixed teacher are.
    pub store: Option<PathBuf>,
}

/// Where the versions of a stream come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Versions {
    /// One checkpoint.
    Fixed,
    /// Every version of a group.
    Every(String),
    /// The initial state of a group and the state at the end of each of its epochs.
    EpochEnds(String),
    /// The state of a group at the end of its last epoch.
    Last(String),
    /// A moving average of a group's versions.
    Average { of: String, decay: f64 },
}

impl Versions {
    /// The group that the stream follows; `None`: it is fixed.
    pub fn of(&self) -> Option<&str> {
        match self {
            Self::Fixed => None,
            Self::Every(of) | Self::EpochEnds(of) | Self::Last(of) | Self::Average { of, .. } => Some(of),
        }
    }
}

impl Teacher {
    /// Names of its streams.
    fn stream_names(&self) -> Vec<&str> {
        match &self.source {
            Source::Peers { of, .. } => of.iter().map(String::as_str).collect(),
            _ => vec![&self.name],
        }
    }
}

impl Job {
    /// All streams of the job, each once.
    pub fn streams(&self) -> Vec<Stream> {
        let mut streams: Vec<Stream> = Vec::new();
        for teacher in &self.teachers {
            let versions = |name: &str| match &teacher.source {
                Source::Checkpoint { .. } => Versions::Fixed,
                Source::Trained { .. } | Source::Peers { .. } => Versions::Every(name.to_owned()),
                Source::Ema { of, decay, .. } => Versions::Average {
                    of: of.clone(),
                    decay: *decay,
                },
                Source::Snapshot { of, at } => match at {
                    SnapshotAt::End => Versions::Last(of.clone()),
                    SnapshotAt::Epoch => Versions::EpochEnds(of.clone()),
                },
            };
            let store = match &teacher.source {
                Source::Checkpoint { store, .. } => store.clone(),
                _ => None,
            };
            for stream in teacher.stream_names() {
                if let Some(known) = streams.iter_mut().find(|s| s.name == stream) {
                    known.replicas = known.replicas.max(teacher.replicas);
                    continue;
                }
                streams.push(Stream {
                    name: stream.to_owned(),
                    versions: versions(stream),
                    replicas: teacher.replicas,
                    device: teacher.device.clone(),
                    store: store.clone(),
                });
            }
        }
        streams
    }

    /// A mixture of teachers as one of streams: peers share their teacher's weight.
    pub(crate) fn by_stream(&self, mixture: &[Mixture]) -> Vec<Mixture> {
        let mut out = Vec::new();
        for part in mixture {
            let teacher = self.teachers.iter().find(|t| t.name == part.name);
            let names = teacher.map_or_else(|| vec![part.name.as_str()], Teacher::stream_names);
            let weight = part.weight / names.len().max(1) as f64;
            out.extend(names.into_iter().map(|name| Mixture {
                name: name.to_owned(),
                weight,
            }));
        }
        out
    }

    /// Optimizer steps between two versions of a student, for those who follow it; 0: nobody needs more than those at
    /// the ends of epochs.
    pub(crate) fn publish_every(&self, student: &str) -> u32 {
        let asked = self.teachers.iter().filter_map(|t| match &t.source {
            Source::Ema {
                of, publish_every, ..
            } if of == student => Some(*publish_every),
            Source::Peers { of, publish_every } if of.iter().any(|s| s == student) => Some(*publish_every),
            _ => None,
        });
        asked.min().unwrap_or(0)
    }
}
