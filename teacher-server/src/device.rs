//! The thread that owns the device: it holds the versions and computes what the requests are batched
//! into.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, error, info};

use crate::batcher::Entry;
use crate::blocks::Blocks;
use crate::engine::TeacherEngine;
use crate::requests::{Limits, Requests, Scored, Work};
use crate::targets::Targets;

/// Classes above which logits are not kept, only the frames that were asked for: a block of them would
/// push thousands of others out of the cache.
pub(crate) const KEPT_CLASSES: usize = 4_096;
/// The start-up sweep takes about this long at most.
const SWEEP: Duration = Duration::from_millis(300);
/// Smallest batch of the sweep.
const SWEEP_FROM: u64 = 16;
/// A batch size is good enough with this share of the best rate: smaller batches answer sooner.
const GOOD_RATE: f64 = 0.9;

#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ScoreError {
    #[error("version {0:?} is not here")]
    Version(Option<u64>),
    #[error("{0}")]
    Worthless(String),
    #[error("{0}")]
    Engine(String),
}

/// Changes of what the device holds.
pub(crate) enum Control {
    Stage {
        version: u64,
        engine: Box<dyn TeacherEngine>,
    },
    Activate {
        version: u64,
        keep_from: u64,
    },
}

/// What the device has loaded, as others see it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Versions {
    pub(crate) staged: BTreeSet<u64>,
    pub(crate) active: Option<u64>,
    /// Classes of the active version.
    pub(crate) classes: usize,
    /// Answers are worthless: why.
    pub(crate) unhealthy: String,
}

/// Talks to the device thread; it ends with the last handle.
pub(crate) struct Device {
    pub(crate) requests: Arc<Requests>,
    pub(crate) versions: watch::Receiver<Versions>,
    pub(crate) blocks: Arc<Blocks>,
}

impl Device {
    /// `groups`: those that learn from this teacher.
    pub(crate) fn start(
        blocks: Arc<Blocks>,
        limits: Limits,
        groups: BTreeSet<String>,
    ) -> std::io::Result<Self> {
        let (publish, versions) = watch::channel(Versions::default());
        let batch_samples = limits.batch_samples as u64;
        let requests = Arc::new(Requests::new(limits, groups));
        let thread = Thread {
            blocks: blocks.clone(),
            requests: requests.clone(),
            batch_samples,
            swept: false,
            engines: BTreeMap::new(),
            active: None,
            wanted: None,
            publish,
        };
        std::thread::Builder::new()
            .name("teacher-device".into())
            .spawn(move || thread.run())?;
        Ok(Self {
            requests,
            versions,
            blocks,
        })
    }

    pub(crate) fn stage(&self, version: u64, engine: Box<dyn TeacherEngine>) {
        self.requests.control(Control::Stage { version, engine });
    }

    pub(crate) fn activate(&self, version: u64, keep_from: u64) {
        self.requests.control(Control::Activate { version, keep_from });
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.requests.end();
    }
}

struct Thread {
    blocks: Arc<Blocks>,
    requests: Arc<Requests>,
    /// Largest batch worth making.
    batch_samples: u64,
    swept: bool,
    engines: BTreeMap<u64, Box<dyn TeacherEngine>>,
    active: Option<u64>,
    /// Newest version asked to serve, and what to keep beside it.
    wanted: Option<(u64, u64)>,
    publish: watch::Sender<Versions>,
}

impl Thread {
    fn run(mut self) {
        loop {
            match self.requests.next(self.batch_samples) {
                Work::Control(Control::Stage { version, engine }) => self.stage(version, engine),
                Work::Control(Control::Activate { version, keep_from }) => {
                    self.wanted = self.wanted.max(Some((version, keep_from)));
                    self.switch();
                }
                Work::Score(batch) => self.score(&batch),
                Work::End => break,
            }
        }
        let counters = self.requests.counters();
        info!(
            scored = counters.scored,
            forwards = counters.forwards,
            hits = counters.hits,
            "device thread ends"
        );
    }

    fn stage(&mut self, version: u64, mut engine: Box<dyn TeacherEngine>) {
        if !self.swept {
            self.swept = true;
            self.sweep(&mut *engine);
        }
        self.engines.insert(version, engine);
        self.switch();
        self.tell(|_| ());
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
            self.requests.keep_from(keep_from.min(version));
            debug!(version, "serves");
            self.tell(|_| ());
        }
    }

    /// Measures samples per second by batch size; the smallest size that is nearly the best becomes
    /// the largest batch.
    fn sweep(&mut self, engine: &mut dyn TeacherEngine) {
        let began = Instant::now();
        let most = self.batch_samples.max(1);
        let inputs = vec![0f32; most as usize * engine.input_len()];
        let mut rates: Vec<(u64, f64)> = Vec::new();
        let mut size = SWEEP_FROM.min(most);
        // The first pass pays for what is set up once.
        let _ = engine.logits(&inputs[..engine.input_len()], 1);
        loop {
            let pass = Instant::now();
            if engine
                .logits(&inputs[..size as usize * engine.input_len()], size as usize)
                .is_err()
            {
                return; // the first real request says so
            }
            rates.push((size, size as f64 / pass.elapsed().as_secs_f64().max(1e-9)));
            // The next one takes twice as long.
            if size == most || began.elapsed() + 2 * pass.elapsed() > SWEEP {
                break;
            }
            size = (size * 2).min(most);
        }
        let best = rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        let good = rates.iter().find(|(_, rate)| *rate >= GOOD_RATE * best);
        // Where the sweep ran out of time, larger batches were not tried: they are not held against.
        if size == most
            && let Some((good, _)) = good
        {
            self.batch_samples = *good;
        }
        self.requests.set_capacity(best);
        info!(
            batch_samples = self.batch_samples,
            samples_per_s = best.round(),
            "measured"
        );
    }

    fn score(&mut self, batch: &[Entry]) {
        let Some(version) = batch.first().map(|e| e.key.version) else {
            return;
        };
        let samples: u64 = batch.iter().map(|e| e.samples).sum();
        let answers = match self.engines.get_mut(&version) {
            None => Err(ScoreError::Version(Some(version))),
            Some(engine) => {
                let (inputs, unreadable) = gather(&self.blocks, batch, engine.input_len());
                let began = Instant::now();
                let logits = logits(&mut **engine, version, &inputs, samples);
                self.requests.computed(samples, began.elapsed());
                logits.map(|logits| (engine.classes(), logits, unreadable))
            }
        };
        match answers {
            Ok((classes, logits, unreadable)) => {
                let mut rest = logits.as_slice();
                for (entry, unreadable) in batch.iter().zip(unreadable) {
                    let (mine, others) = rest.split_at(entry.samples as usize * classes);
                    rest = others;
                    let keeps = entry.key.terms.is_none();
                    let targets = Targets::new(version, classes, mine.into(), keeps, unreadable);
                    self.answer(entry, &Ok(Arc::new(targets)));
                }
            }
            Err(e) => {
                if !matches!(e, ScoreError::Version(_)) {
                    error!(version, "{e}");
                }
                if let ScoreError::Worthless(text) = &e {
                    self.tell(|v| v.unhealthy.clone_from(text));
                }
                for entry in batch {
                    self.answer(entry, &Err(e.clone()));
                }
            }
        }
    }

    fn answer(&self, entry: &Entry, scored: &Scored) {
        self.requests.scored(entry.key, scored, Instant::now());
    }

    fn tell(&self, change: impl FnOnce(&mut Versions)) {
        let staged: BTreeSet<u64> = self.engines.keys().copied().collect();
        let active = self.active;
        let newest = self.engines.values().next_back();
        let classes = newest.map_or(0, |e| e.classes());
        self.publish.send_modify(|v| {
            v.staged = staged;
            v.active = active;
            v.classes = classes;
            change(v);
        });
    }
}

/// All samples of a batch in one buffer, and the positions of each entry that can't be read.
fn gather(blocks: &Blocks, batch: &[Entry], len: usize) -> (Vec<f32>, Vec<Vec<u64>>) {
    let samples: u64 = batch.iter().map(|e| e.samples).sum();
    let mut inputs = vec![0f32; samples as usize * len];
    let mut rest = inputs.as_mut_slice();
    let mut unreadable = Vec::with_capacity(batch.len());
    for entry in batch {
        let (mine, others) = rest.split_at_mut(entry.samples as usize * len);
        rest = others;
        unreadable.push(match &entry.inputs {
            Some(inputs) => {
                mine.copy_from_slice(inputs);
                Vec::new()
            }
            None => blocks.read(&entry.key, mine),
        });
    }
    (inputs, unreadable)
}

/// One forward pass, and whether it is good for anything.
fn logits(
    engine: &mut dyn TeacherEngine,
    version: u64,
    inputs: &[f32],
    samples: u64,
) -> Result<Vec<f32>, ScoreError> {
    let classes = engine.classes();
    let logits = engine.logits(inputs, samples as usize);
    let logits = logits.map_err(|e| ScoreError::Engine(e.to_string()))?;
    if logits.len() != samples as usize * classes {
        return Err(ScoreError::Worthless(format!(
            "version {version} gave {} values for {samples} samples of {classes} classes",
            logits.len()
        )));
    }
    for (row, values) in logits.chunks_exact(classes).enumerate() {
        // A class may be impossible (-inf), all of them may not.
        let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !most.is_finite() || values.iter().any(|v| v.is_nan()) {
            return Err(ScoreError::Worthless(format!(
                "version {version} gave a value that is not finite (row {row} of a batch of {samples})"
            )));
        }
    }
    Ok(logits)
}
