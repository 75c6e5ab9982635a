//! The thread that owns the device: it holds the versions and computes what the requests are batched
//! into.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use retort_codec::Features;
use retort_runtime::{block_span, caught};
use tokio::sync::watch;
use tracing::{Span, debug, error, info, warn};

use crate::batcher::{Entry, Inputs};
use crate::blocks::Blocks;
use crate::engine::{Error, Layer, TeacherEngine};
use crate::requests::{Limits, Requests, Scored, Work};
use crate::targets::Targets;

/// Numbers of a sample's logits above which they are not kept, only the frames that were asked for: a block of them would
/// push thousands of others out of the cache.
pub(crate) const KEPT_LOGITS: usize = 4_096;
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
    /// The model is on a server that does not answer.
    #[error("{0}")]
    Away(String),
    #[error("{0}")]
    Engine(String),
    #[error("{0}")]
    Layer(String),
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
    /// Classes of the newest version.
    pub(crate) classes: usize,
    /// Rows that it gives for each sample.
    pub(crate) rows: usize,
    /// What the newest version can show.
    pub(crate) layers: Vec<Layer>,
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
            away: false,
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
    /// The last answer was that the model's server does not answer.
    away: bool,
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
                Work::Score(batch) => self.score(batch),
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
            // One that panics here does so again at the first real request, which says it.
            let _ = caught(|| self.sweep(&mut *engine));
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

    fn score(&mut self, mut batch: Vec<Entry>) {
        let Some(version) = batch.first().map(|e| e.key.version) else {
            return;
        };
        // Taken out: they end before those of the answers.
        let waits: Vec<Span> = batch
            .iter_mut()
            .map(|e| std::mem::replace(&mut e.span, Span::none()))
            .collect();
        let samples: u64 = batch.iter().map(|e| e.samples).sum();
        let forward = |wait: &Span| block_span!(wait, "forward", batch = samples);
        let forward: Vec<Span> = waits.iter().map(forward).collect();
        let answers = match self.engines.get_mut(&version) {
            None => Err(ScoreError::Version(Some(version))),
            Some(engine) => {
                let (inputs, unreadable) = gather(&self.blocks, &batch, engine.input_len());
                let began = Instant::now();
                let layer = batch.first().and_then(|e| e.layer.as_deref());
                // Backends report by a panic that a device is out of memory: it fails this batch, not the thread.
                let outputs = caught(|| outputs(&mut **engine, version, &inputs, samples, layer))
                    .unwrap_or_else(|text| Err(panicked(&text)));
                if outputs.is_ok() {
                    self.requests.computed(samples, began.elapsed());
                }
                outputs.map(|outputs| ((engine.rows(), engine.classes()), outputs, unreadable))
            }
        };
        drop((forward, waits));
        match answers {
            Ok(((rows, classes), Outputs { logits, features }, unreadable)) => {
                if std::mem::take(&mut self.away) {
                    info!(version, "answers again");
                }
                let mut rest = logits.as_slice();
                let mut scored = 0;
                for (entry, unreadable) in batch.iter().zip(unreadable) {
                    let (mine, others) = rest.split_at(entry.samples as usize * rows * classes);
                    rest = others;
                    let keeps = entry.key.terms.is_none();
                    let first = scored;
                    scored += entry.samples as usize;
                    let features = features
                        .as_ref()
                        .map(|f| encode(f, first..scored))
                        .unwrap_or_default();
                    let targets = Targets::new(version, classes, mine.into(), keeps, unreadable)
                        .with_features(features);
                    self.answer(entry, &Ok(Arc::new(targets)));
                }
            }
            Err(e) => {
                match &e {
                    ScoreError::Version(_) | ScoreError::Layer(_) => {}
                    // Readers ask again and again.
                    ScoreError::Away(_) if self.away => {}
                    ScoreError::Away(_) => warn!(version, "no answer, students wait: {e}"),
                    ScoreError::Worthless(_) | ScoreError::Engine(_) => error!(version, "{e}"),
                }
                self.away = matches!(e, ScoreError::Away(_));
                if let ScoreError::Worthless(text) = &e {
                    self.tell(|v| v.unhealthy.clone_from(text));
                }
                for entry in &batch {
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
        let (classes, rows) = newest.map_or((0, 1), |e| (e.classes(), e.rows()));
        let layers = newest.map(|e| e.layers()).unwrap_or_default();
        self.publish.send_modify(|v| {
            v.staged = staged;
            v.active = active;
            v.classes = classes;
            v.rows = rows;
            v.layers = layers;
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
            Inputs::Sent(inputs) => {
                mine.copy_from_slice(inputs);
                Vec::new()
            }
            Inputs::Placed(order) => blocks.read(&entry.key, order, mine),
        });
    }
    (inputs, unreadable)
}

fn panicked(text: &str) -> ScoreError {
    let line = text.lines().next().unwrap_or(text); // LibTorch's errors go on with a stack
    ScoreError::Engine(format!("the model panicked: {line}"))
}

/// What one forward pass gave.
struct Outputs {
    /// Row by row.
    logits: Vec<f32>,
    /// Of the layer that was asked for.
    features: Option<Features>,
}

/// The features of some samples, on their way.
fn encode(features: &Features, samples: Range<usize>) -> bytes::Bytes {
    let len = features.channels * features.positions;
    let mine = Features {
        rows: samples.len(),
        values: features.values[samples.start * len..samples.end * len].to_vec(),
        ..*features
    };
    let mut out = Vec::new();
    mine.encode(&mut out);
    out.into()
}

/// One forward pass, and whether it is good for anything.
fn outputs(
    engine: &mut dyn TeacherEngine,
    version: u64,
    inputs: &[f32],
    samples: u64,
    layer: Option<&str>,
) -> Result<Outputs, ScoreError> {
    let (rows, classes) = (engine.rows(), engine.classes());
    let failed = |e: Error| match e {
        Error::Layer(text) => ScoreError::Layer(text),
        Error::Away(text) => ScoreError::Away(text),
        Error::Worthless(text) => ScoreError::Worthless(format!("version {version}: {text}")),
        other => ScoreError::Engine(other.to_string()),
    };
    let (logits, features) = match layer {
        None => (engine.logits(inputs, samples as usize).map_err(failed)?, None),
        Some(name) => {
            let (logits, values) = engine.features(inputs, samples as usize, name).map_err(failed)?;
            let layer = engine.layers().into_iter().find(|l| l.name == name);
            let layer = layer.ok_or_else(|| ScoreError::Layer(format!("no layer {name:?}")))?;
            let features = Features {
                rows: samples as usize,
                channels: layer.channels,
                positions: layer.positions,
                values,
            };
            let expected = features.rows * features.channels * features.positions;
            if features.values.len() != expected || features.values.iter().any(|v| !v.is_finite()) {
                return Err(ScoreError::Worthless(format!(
                    "version {version} gave {} values for layer {name}, of {expected} finite ones",
                    features.values.len()
                )));
            }
            (logits, Some(features))
        }
    };
    if logits.len() != samples as usize * rows * classes {
        return Err(ScoreError::Worthless(format!(
            "version {version} gave {} values for {samples} samples of {rows} x {classes} classes",
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
    Ok(Outputs { logits, features })
}
