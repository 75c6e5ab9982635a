//! Streams of soft targets: one link for each server of each teacher, and which block goes where.

mod link;
mod load;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use retort_client::Dialer;
use retort_coordinator_core::run::Endpoints;
use retort_data::order::Grid;
use retort_data::schedule::Schedule;
use retort_models::Layer;
use retort_runtime::{OnError, TaskGroup};
use retort_student_worker_core::BlockId;
use tokio::sync::mpsc;

use self::link::Link;
use self::load::Load;
use crate::replica::Event;

/// Wants waiting for one link; the machine wants `prefetch` blocks at most.
const WANTS: usize = 2_048;
/// A refused or unanswered want is asked again after this pause.
const RETRY: Duration = Duration::from_millis(100);
/// A block leaves the server where all students meet once another would answer so much sooner.
const SPILL: f64 = 2.0;
/// And only where the difference is worth a second forward pass.
const WORTH: f64 = 0.05;

/// What every stream of a session asks for.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) run: String,
    pub(crate) reader: String,
    pub(crate) group: String,
    pub(crate) dataset_digest: String,
    pub(crate) temperature: Schedule,
    pub(crate) epochs: u32,
    pub(crate) encoding: retort_codec::Encoding,
    pub(crate) grid: Grid,
    pub(crate) classes: usize,
    /// Of soft targets for each sample.
    pub(crate) rows: usize,
    pub(crate) prefetch: u64,
    /// The layer that one teacher sends too, with its name.
    pub(crate) layer: Option<(String, Layer)>,
}

impl Terms {
    /// What softens the answer: a function of the block's place, the same for all who train on it, or what came with its lease.
    pub(crate) fn temperature(&self, want: &Want) -> f64 {
        if let Some(temperature) = want.temperature {
            return temperature;
        }
        let id = want.id;
        let place = u64::from(id.epoch) * self.grid.positions + self.grid.range(id.block).start;
        let all = u64::from(self.epochs) * self.grid.positions;
        self.temperature.at(place as f64 / all.max(1) as f64)
    }

    /// The layer that this teacher sends.
    fn layer_of(&self, teacher: &str) -> Option<&Layer> {
        let (stream, layer) = self.layer.as_ref()?;
        (stream == teacher).then_some(layer)
    }

    /// Bytes of what this teacher sends of so many samples.
    fn frame_len(&self, teacher: &str, samples: u64) -> u64 {
        let samples = samples as usize;
        let features = |l: &Layer| retort_codec::features::frame_len(samples, l.channels, l.positions);
        let features = self.layer_of(teacher).map_or(0, features);
        (self.encoding.frame_len(samples * self.rows, self.classes) + features) as u64
    }

    fn samples(&self, id: BlockId) -> u64 {
        let range = self.grid.range(id.block);
        range.end - range.start
    }
}

/// One want, as the machine gave it.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    pub(crate) teacher: String,
    pub(crate) id: BlockId,
    pub(crate) floor: u64,
    pub(crate) exact: Option<u64>,
    /// An operator's, instead of the job's.
    pub(crate) temperature: Option<f64>,
    /// Until the trainer would wait for it.
    pub(crate) within: Duration,
}

/// The servers of a teacher.
struct Servers {
    addresses: Vec<String>,
    /// None of them answers since then.
    none_since: Option<Instant>,
    /// There is more than one: what one leaves unanswered can be asked of another.
    several: Arc<AtomicBool>,
}

/// One link, as the routing sees it.
struct Line {
    wants: mpsc::Sender<Want>,
    load: Arc<Load>,
}

/// The links of a session.
pub(crate) struct Frames {
    terms: Arc<Terms>,
    dialer: Dialer,
    events: mpsc::Sender<Event>,
    tasks: TaskGroup,
    servers: BTreeMap<String, Servers>,
    lines: BTreeMap<(String, String), Line>,
}

impl Frames {
    pub(crate) fn new(terms: Terms, dialer: Dialer, events: mpsc::Sender<Event>, tasks: TaskGroup) -> Self {
        Self {
            terms: Arc::new(terms),
            dialer,
            events,
            tasks,
            servers: BTreeMap::new(),
            lines: BTreeMap::new(),
        }
    }

    /// Servers of a teacher changed; links to others end.
    pub(crate) fn endpoints(&mut self, endpoints: &Endpoints) {
        self.lines
            .retain(|(t, a), _| *t != endpoints.teacher || endpoints.addresses.contains(a));
        let servers = self.servers.entry(endpoints.teacher.clone());
        let servers = servers.or_insert_with(|| Servers {
            addresses: Vec::new(),
            none_since: None,
            several: Arc::default(),
        });
        servers.addresses.clone_from(&endpoints.addresses);
        servers
            .several
            .store(servers.addresses.len() > 1, Ordering::Relaxed);
    }

    /// Teachers that nobody has answered for longer than `patience`, and those that answer.
    pub(crate) fn look(&mut self, now: Instant, patience: Duration) -> Vec<(String, bool)> {
        let mut found = Vec::new();
        for (teacher, servers) in &mut self.servers {
            let answers = |address: &String| {
                let line = self.lines.get(&(teacher.clone(), address.clone()));
                line.is_none_or(|l| !l.load.is_down())
            };
            if servers.addresses.iter().any(answers) {
                servers.none_since = None;
            } else {
                servers.none_since.get_or_insert(now);
            }
            let missing = servers
                .none_since
                .is_some_and(|since| now.duration_since(since) >= patience);
            found.push((teacher.clone(), missing));
        }
        found
    }

    /// Samples per second that each server answered while it was asked for some, by address.
    pub(crate) fn rates(&self, now: Instant) -> BTreeMap<String, f64> {
        let lines = self.lines.iter();
        let rates = lines.map(|((_, address), line)| (address.clone(), line.load.rate(now)));
        rates.filter(|(_, rate)| *rate > 0.0).collect()
    }

    /// Sends a want to the server that all students ask for this block, or where it is answered
    /// sooner.
    pub(crate) fn want(&mut self, want: Want) {
        let Some(address) = self.route(&want, Instant::now()) else {
            self.fail_later(want);
            return;
        };
        let key = (want.teacher.clone(), address);
        let line = self
            .lines
            .entry(key.clone())
            .or_insert_with_key(|(teacher, address)| {
                let (wants, inbox) = mpsc::channel(WANTS);
                let load = Arc::new(Load::default());
                let link = Link {
                    terms: self.terms.clone(),
                    dialer: self.dialer.clone(),
                    teacher: teacher.clone(),
                    address: address.clone(),
                    load: load.clone(),
                    several: self
                        .servers
                        .get(teacher)
                        .map(|s| s.several.clone())
                        .unwrap_or_default(),
                    events: self.events.clone(),
                    tasks: self.tasks.clone(),
                };
                self.tasks.spawn("frames", OnError::Log, link.run(inbox));
                Line { wants, load }
            });
        let samples = self.terms.samples(want.id);
        line.load.asked(samples, Instant::now());
        if let Err(failed) = line.wants.try_send(want) {
            line.load.given_up(samples, Instant::now());
            let (mpsc::error::TrySendError::Full(want) | mpsc::error::TrySendError::Closed(want)) = failed;
            self.lines.remove(&key);
            self.fail_later(want);
        }
    }

    /// Highest random weight: every student sends the same block to the same server, and the loss
    /// of a server moves its blocks only. Where that server is so busy or slow that the next one in
    /// the block's own order would answer much sooner, the block goes there; a server that does not
    /// answer at all is passed over. `None`: nobody can answer at present.
    fn route(&self, want: &Want, now: Instant) -> Option<String> {
        let samples = self.terms.samples(want.id);
        let mut servers: Vec<(u64, f64, &String)> = self
            .servers
            .get(&want.teacher)?
            .addresses
            .iter()
            .map(|address| {
                let name: Vec<u64> = address.bytes().map(u64::from).collect();
                let place = [
                    retort_data::rng::key(&name),
                    u64::from(want.id.epoch),
                    want.id.block,
                ];
                let line = self.lines.get(&(want.teacher.clone(), address.clone()));
                let wait = line.map_or(0.0, |l| l.load.expected(samples, now));
                (retort_data::rng::key(&place), wait, address)
            })
            .filter(|(_, wait, _)| wait.is_finite()) // down
            .collect();
        servers.sort_by_key(|(weight, ..)| std::cmp::Reverse(*weight));
        let least = servers
            .iter()
            .map(|(_, wait, _)| *wait)
            .fold(f64::INFINITY, f64::min);
        let near = |wait: f64| wait <= (SPILL * least).max(least + WORTH);
        servers
            .iter()
            .find(|(_, wait, _)| near(*wait))
            .map(|(.., address)| (*address).clone())
    }

    fn fail_later(&self, want: Want) {
        let failed = Event::FrameFailed {
            teacher: want.teacher,
            id: want.id,
        };
        send_later(&self.tasks, self.events.clone(), failed, RETRY);
    }
}

fn send_later(tasks: &TaskGroup, events: mpsc::Sender<Event>, event: Event, pause: Duration) {
    tasks.spawn("retry", OnError::Log, async move {
        tokio::time::sleep(pause).await;
        let _ = events.send(event).await; // a replica that has gone
        Ok(())
    });
}

#[cfg(test)]
mod tests;
