//! The thread that owns the device: it holds the versions, batches requests and computes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use retort_codec::Encoding;
use retort_data::Dataset;
use retort_data::order::{Grid, Order};
use retort_runtime::failpoint;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, error, info, warn};

use crate::engine::TeacherEngine;

/// Requests waiting for the device; when full, streams stop reading wants.
const QUEUE: usize = 1_024;
/// The measured rate follows the last few seconds.
const RATE_WINDOW: Duration = Duration::from_secs(2);

/// The data behind a run's blocks.
#[derive(Debug)]
pub(crate) struct Blocks {
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) order: Order,
    pub(crate) grid: Grid,
}

/// Asks for one block's soft targets.
pub(crate) struct Score {
    pub(crate) epoch: u32,
    pub(crate) block: u64,
    /// The very version, or else the active one.
    pub(crate) exact: Option<u64>,
    pub(crate) temperature: f32,
    pub(crate) encoding: Encoding,
    pub(crate) reply: oneshot::Sender<Result<Frame, ScoreError>>,
}

/// A frame and the version that made it, wholly (P4).
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) version: u64,
    pub(crate) bytes: Bytes,
    /// Positions whose samples could not be read; their rows are placeholders.
    pub(crate) unreadable: Vec<u64>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ScoreError {
    #[error("version {0:?} is not here")]
    Version(Option<u64>),
    #[error("version {version} gave a value that is not finite: {detail}")]
    NotFinite { version: u64, detail: String },
    #[error("{0}")]
    Engine(String),
}

enum Job {
    Stage {
        version: u64,
        engine: Box<dyn TeacherEngine>,
    },
    Activate {
        version: u64,
        keep_from: u64,
    },
    Score(Score),
}

/// What the device has loaded, as others see it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Versions {
    pub(crate) staged: BTreeSet<u64>,
    pub(crate) active: Option<u64>,
    /// Answers are worthless: why.
    pub(crate) unhealthy: String,
}

/// Counters, readable from anywhere.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) scored: AtomicU64,
    pub(crate) queued: AtomicU64,
    /// Samples per second, in thousandths.
    rate: AtomicU64,
}

impl Counters {
    pub(crate) fn samples_per_s(&self) -> f64 {
        self.rate.load(Ordering::Relaxed) as f64 / 1e3
    }
}

/// Talks to the device thread; it ends with the last handle.
#[derive(Clone)]
pub(crate) struct Device {
    jobs: mpsc::Sender<Job>,
    pub(crate) versions: watch::Receiver<Versions>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) blocks: Arc<Blocks>,
}

impl Device {
    pub(crate) fn start(blocks: Arc<Blocks>, max_batch_samples: usize) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel(QUEUE);
        let (publish, versions) = watch::channel(Versions::default());
        let counters = Arc::new(Counters::default());
        let thread = Thread {
            blocks: blocks.clone(),
            max_batch_samples,
            engines: BTreeMap::new(),
            active: None,
            wanted: None,
            publish,
            counters: counters.clone(),
            window: (Instant::now(), 0),
        };
        std::thread::Builder::new()
            .name("teacher-device".into())
            .spawn(move || thread.run(inbox))?;
        Ok(Self {
            jobs,
            versions,
            counters,
            blocks,
        })
    }

    pub(crate) async fn stage(&self, version: u64, engine: Box<dyn TeacherEngine>) {
        // The thread ends only when all handles are gone, so a send can't fail while one is held.
        let _ = self.jobs.send(Job::Stage { version, engine }).await;
    }

    pub(crate) async fn activate(&self, version: u64, keep_from: u64) {
        let _ = self.jobs.send(Job::Activate { version, keep_from }).await;
    }

    pub(crate) async fn score(&self, score: Score, samples: u64) {
        self.counters.queued.fetch_add(samples, Ordering::Relaxed);
        let _ = self.jobs.send(Job::Score(score)).await;
    }
}

struct Thread {
    blocks: Arc<Blocks>,
    max_batch_samples: usize,
    engines: BTreeMap<u64, Box<dyn TeacherEngine>>,
    active: Option<u64>,
    /// Newest version asked to serve, and what to keep beside it.
    wanted: Option<(u64, u64)>,
    publish: watch::Sender<Versions>,
    counters: Arc<Counters>,
    window: (Instant, u64),
}

impl Thread {
    fn run(mut self, mut inbox: mpsc::Receiver<Job>) {
        let mut next = inbox.blocking_recv();
        while let Some(job) = next.take() {
            match job {
                Job::Stage { version, engine } => {
                    self.engines.insert(version, engine);
                    self.switch();
                    self.tell(|_| ());
                }
                Job::Activate { version, keep_from } => {
                    self.wanted = self.wanted.max(Some((version, keep_from)));
                    self.switch();
                }
                Job::Score(first) => {
                    // Whatever waits already joins the batch: the device is never held idle.
                    let mut scores = vec![first];
                    let per_block = self.blocks.grid.block.max(1) as usize;
                    while scores.len() * per_block < self.max_batch_samples {
                        match inbox.try_recv() {
                            Ok(Job::Score(score)) => scores.push(score),
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.score_all(scores);
                }
            }
            if next.is_none() {
                next = inbox.blocking_recv();
            }
        }
    }

    /// Serves the version that was asked for last, as soon as it is loaded: a server that starts
    /// anew is told what serves before it can have it.
    fn switch(&mut self) {
        if let Some((version, keep_from)) = self.wanted
            && self.engines.contains_key(&version)
            && self.active < Some(version)
        {
            self.active = Some(version);
            self.engines = self.engines.split_off(&keep_from.min(version));
            debug!(version, "serves");
            self.tell(|_| ());
        }
    }

    /// Scores a batch, one forward pass for each version asked for.
    fn score_all(&mut self, scores: Vec<Score>) {
        let mut by_version: BTreeMap<Option<u64>, Vec<Score>> = BTreeMap::new();
        for score in scores {
            let samples = self.samples(&score);
            self.counters.queued.fetch_sub(samples, Ordering::Relaxed);
            if score.reply.is_closed() {
                continue; // nobody waits for it any more
            }
            by_version
                .entry(score.exact.or(self.active))
                .or_default()
                .push(score);
        }
        for (version, scores) in by_version {
            match version.filter(|v| self.engines.contains_key(v)) {
                Some(version) => self.score_version(version, scores),
                None => {
                    for score in scores {
                        let _ = score.reply.send(Err(ScoreError::Version(version)));
                    }
                }
            }
        }
    }

    fn samples(&self, score: &Score) -> u64 {
        let range = self.blocks.grid.range(score.block);
        range.end - range.start
    }

    fn score_version(&mut self, version: u64, scores: Vec<Score>) {
        let total: u64 = scores.iter().map(|s| self.samples(s)).sum();
        let (inputs, unreadable) = self.inputs(&scores, total as usize);
        let Some(engine) = self.engines.get_mut(&version) else {
            return;
        };
        let classes = engine.classes();
        let logits = match engine.logits(&inputs, total as usize) {
            Ok(logits) => logits,
            Err(e) => {
                error!(version, "engine: {e}");
                for score in scores {
                    let _ = score.reply.send(Err(ScoreError::Engine(e.to_string())));
                }
                return;
            }
        };
        let mut at = 0;
        for score in scores {
            let rows = self.samples(&score) as usize;
            let mut frame = encode(&logits[at..at + rows * classes], classes, &score, version);
            if let Ok(frame) = &mut frame {
                let here = unreadable
                    .iter()
                    .filter(|(e, b, _)| (*e, *b) == (score.epoch, score.block));
                frame.unreadable = here.map(|(_, _, position)| *position).collect();
            }
            if let Err(ScoreError::NotFinite { detail, .. }) = &frame {
                let text = format!("version {version} gave a value that is not finite: {detail}");
                error!("{text}");
                self.tell(|v| v.unhealthy = text);
            }
            at += rows * classes;
            let _ = score.reply.send(frame);
        }
        self.count(total);
    }

    /// Views of all samples, and the epoch, block and position of those that can't be read; these
    /// are left blank.
    fn inputs(&self, scores: &[Score], total: usize) -> (Vec<f32>, Vec<(u32, u64, u64)>) {
        let blocks = &self.blocks;
        let len = blocks.dataset.shape().len();
        let mut inputs = vec![0f32; total * len];
        let mut unreadable = Vec::new();
        let positions = scores
            .iter()
            .flat_map(|s| blocks.grid.range(s.block).map(|p| (s.epoch, s.block, p)));
        for ((epoch, block, position), out) in positions.zip(inputs.chunks_exact_mut(len)) {
            let sample = blocks.order.sample(epoch, position);
            let view_seed = blocks.order.view_seed(epoch, position);
            let read = failpoint::guard(sample, false, || blocks.dataset.view(sample, view_seed, out));
            if let Err(reason) = read {
                warn!(sample, "can't be read: {reason}");
                out.fill(0.0);
                unreadable.push((epoch, block, position));
            }
        }
        (inputs, unreadable)
    }

    fn count(&mut self, samples: u64) {
        self.counters.scored.fetch_add(samples, Ordering::Relaxed);
        self.window.1 += samples;
        let elapsed = self.window.0.elapsed();
        if elapsed >= RATE_WINDOW {
            let rate = self.window.1 as f64 / elapsed.as_secs_f64();
            self.counters.rate.store((rate * 1e3) as u64, Ordering::Relaxed);
            self.window = (Instant::now(), 0);
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Versions)) {
        let staged: BTreeSet<u64> = self.engines.keys().copied().collect();
        let active = self.active;
        self.publish.send_modify(|v| {
            v.staged = staged;
            v.active = active;
            change(v);
        });
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        info!(
            scored = self.counters.scored.load(Ordering::Relaxed),
            "device thread ends"
        );
    }
}

fn encode(logits: &[f32], classes: usize, score: &Score, version: u64) -> Result<Frame, ScoreError> {
    let mut soft = vec![0f32; logits.len()];
    retort_codec::soften(logits, classes, score.temperature, &mut soft);
    retort_codec::check(&soft, classes).map_err(|e| ScoreError::NotFinite {
        version,
        detail: e.to_string(),
    })?;
    let mut bytes = Vec::new();
    retort_codec::encode(&soft, classes, score.temperature, score.encoding, &mut bytes);
    Ok(Frame {
        version,
        bytes: bytes.into(),
        unreadable: Vec::new(),
    })
}
