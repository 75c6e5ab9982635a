//! Membership in the fleet: join a run, load versions as asked, switch when told, leave.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use anyhow::Context;
use retort_client::{Backoff, Channel, Dialer, FileError, Refusals};
use retort_data::order::{Grid, Order};
use retort_job::{Distillation, Job};
use retort_models::{Card, Choice};
use retort_proto::{PROTOCOL, pb};
use retort_runtime::{OnError, TaskGroup, registration_number};
use retort_tls::Role;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{Instrument, Span, info, info_span, warn};

use crate::blocks::Blocks;
use crate::config::Config;
use crate::device::Device;
use crate::engine::{BurnEngine, Replay, TeacherEngine};
use crate::service::Serving;
use crate::store::{Identity, Place, Store};
use crate::targets::Terms;

/// How long one question for a run is held open.
const NEXT_RUN_WAIT_MS: u32 = 10_000;
/// Heartbeats waiting to be sent; one is sent at a time.
const HEARTBEATS: usize = 4;
/// How long the coordinator may take to hear that this server leaves.
const LEAVING: Duration = Duration::from_secs(1);
/// How often recorded soft targets are brought to a bucket.
const BRING: Duration = Duration::from_secs(5);

/// The process's place in the fleet, over all runs.
pub(crate) struct Membership {
    config: Config,
    name: String,
    advertise: String,
    serving: watch::Sender<Option<Arc<Serving>>>,
    control: Channel,
    data: Channel,
}

/// The coordinator did not say whether there is a run.
#[derive(Debug, thiserror::Error)]
#[error("ask for a run: {}", retort_client::reason(.0))]
struct Unasked(tonic::Status);

/// Why a run was left.
enum Left {
    /// It ended.
    Finished,
    /// The session is not valid any more: join again.
    Lost,
    /// The process is shutting down.
    Shutdown,
}

impl Membership {
    pub(crate) fn new(
        config: Config,
        dialer: &Dialer,
        (name, advertise): (String, String),
        serving: watch::Sender<Option<Arc<Serving>>>,
    ) -> anyhow::Result<Self> {
        // Control and data do not share a connection: a saturated one must not look like death.
        let control = dialer.connect(&config.coordinator, Role::Coordinator)?;
        let data = dialer.connect(&config.coordinator, Role::Coordinator)?;
        Ok(Self {
            config,
            name,
            advertise,
            serving,
            control,
            data,
        })
    }

    pub(crate) async fn run(self, tasks: TaskGroup) -> anyhow::Result<()> {
        let token = tasks.token().clone();
        let seed = self
            .name
            .bytes()
            .fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
        let mut backoff = Backoff::new(seed);
        // Outlives sessions: what is loaded goes on serving while the coordinator is away.
        let mut kept = None;
        let mut refusals = Refusals::default();
        loop {
            let joined = tokio::select! {
                joined = self.join(&tasks, &mut kept) => joined,
                () = token.cancelled() => return Ok(()),
            };
            let once = match joined {
                Ok(Some(served)) => served.serve().await.map(Some),
                Ok(None) => Ok(None),
                Err(e) => Err(e),
            };
            match once {
                Ok(Some(Left::Shutdown)) => return Ok(()),
                Ok(Some(Left::Finished | Left::Lost)) => backoff.reset(),
                Ok(None) => {}
                Err(e) => {
                    if refusals.note(e.downcast_ref::<Unasked>().map(|Unasked(status)| status)) {
                        return Err(e);
                    }
                    warn!("not in a run: {e:#}");
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next_delay()) => {}
                        () = token.cancelled() => return Ok(()),
                    }
                }
            }
        }
    }

    /// Waits for a run and joins it; `None`: there was none.
    async fn join(
        &self,
        tasks: &TaskGroup,
        kept: &mut Option<Arc<Serving>>,
    ) -> anyhow::Result<Option<Served<'_>>> {
        let mut fleet = retort_client::fleet(self.control.clone());
        let offered = fleet
            .next_run(pb::NextRunRequest {
                role: pb::Role::TeacherServer.into(),
                worker: self.name.clone(),
                wait_ms: NEXT_RUN_WAIT_MS,
            })
            .await
            .map_err(Unasked)?
            .into_inner();
        if offered.run.is_empty() {
            return Ok(None);
        }
        let job = retort_job::parse(&offered.job_toml, Path::new("job"), &[])?;
        let same_run = kept.take_if(|s| s.run == offered.run);
        let blocks = match &same_run {
            Some(serving) => serving.device.blocks.clone(),
            None => self.load(&job, offered.seed).await?,
        };
        let (process, attempt) = registration_number();
        let registered = fleet
            .register(pb::RegisterRequest {
                process,
                attempt,
                protocol: PROTOCOL,
                run: offered.run.clone(),
                role: pb::Role::TeacherServer.into(),
                worker: self.name.clone(),
                dataset_digest: blocks.dataset.digest().to_owned(),
                address: self.advertise.clone(),
                ..Default::default()
            })
            .await
            .context("register")?
            .into_inner();
        let session = registered
            .session
            .clone()
            .context("registration without a session")?;
        let stream = job.streams().into_iter().find(|s| s.name == registered.part);
        let device = stream.as_ref().context("a teacher that the job does not have")?;
        let choice = device.device.0.parse::<Choice>()?.resolve();
        let span = info_span!(
            "serve",
            run = offered.run,
            worker = self.name,
            teacher = registered.part
        );
        let serving = match same_run.filter(|s| s.teacher == registered.part) {
            Some(serving) => serving,
            None => {
                let groups = job.groups().into_iter();
                let learns = groups.filter(|g| g.teachers.iter().any(|m| m.name == registered.part));
                Arc::new(Serving {
                    run: offered.run,
                    teacher: registered.part.clone(),
                    dataset_digest: blocks.dataset.digest().to_owned(),
                    device_name: choice.to_string(),
                    device: Device::start(blocks, self.config.limits(), learns.map(|g| g.name).collect())
                        .context("start device thread")?,
                    store: OnceLock::new(),
                    refetched: AtomicU64::new(0),
                })
            }
        };
        let recorder = stream.and_then(|s| Some(self.recorder(&job, &s.name, s.store.as_ref()?)));
        *kept = Some(serving.clone());
        self.serving.send_replace(Some(serving.clone()));
        let served = Served {
            membership: self,
            session,
            heartbeat: Duration::from_millis(u64::from(registered.heartbeat_ms.max(10))),
            serving,
            recorder: recorder.map(Arc::new),
            tasks: tasks.clone(),
            span,
        };
        served.span.in_scope(|| {
            info!("joined");
            for version in registered.stage {
                served.stage(version);
            }
        });
        Ok(Some(served))
    }

    fn recorder(&self, job: &Job, stream: &str, path: &Path) -> Recorder {
        let groups = job.groups().into_iter();
        let learns = groups.filter(|g| g.teachers.iter().any(|m| m.name == stream));
        Recorder {
            path: path.to_owned(),
            base: self.config.base.clone(),
            distillation: job.distillation.clone(),
            // Constant, or the job would have been refused.
            temperatures: learns.map(|g| g.temperature.at(0.0) as f32).collect(),
        }
    }

    async fn load(&self, job: &Job, seed: u64) -> anyhow::Result<Arc<Blocks>> {
        let (config, base) = (job.dataset.clone(), self.config.base.clone());
        let dataset = tokio::task::spawn_blocking(move || retort_stores::load(&config, &base, seed))
            .await
            .context("load data set")??;
        if dataset.bad_rows().count() > 0 {
            tracing::warn!("left out: {}", dataset.bad_rows());
        }
        let (samples, labelled) = (dataset.train_len(), dataset.labelled());
        let shares = job.groups().into_iter().filter(|g| g.share.is_some());
        let orders = shares.filter_map(|g| Some((g.name.clone(), g.order(seed, samples, labelled)?)));
        Ok(Arc::new(Blocks {
            orders: orders.collect(),
            order: Order::new_all(seed, dataset.train_len()),
            grid: Grid {
                positions: u64::from(dataset.train_len()),
                block: job.dataset.block_samples.unwrap_or(job.run.batch_size),
            },
            dataset: Arc::new(dataset),
        }))
    }
}

/// Where a fixed teacher's frames are recorded, and on which terms.
struct Recorder {
    /// As the job has it.
    path: PathBuf,
    base: PathBuf,
    distillation: Distillation,
    temperatures: Vec<f32>,
}

impl Recorder {
    fn open(&self, serving: &Serving, card: &Card, weights: &[u8]) -> std::io::Result<Store> {
        let dataset = &serving.device.blocks.dataset;
        let mut hash = blake3::Hasher::new();
        hash.update(weights);
        if let Some(foreign) = card.model.foreign() {
            // One model answers differently by what is read of it.
            hash.update(&serde_json::to_vec(&(foreign, card.input, &card.preprocessing))?);
        }
        let identity = Identity {
            teacher: serving.teacher.clone(),
            weights: hash.finalize().to_hex().to_string(),
            dataset_digest: dataset.digest().to_owned(),
            samples: dataset.train_len(),
            classes: card.classes,
            rows: (card.rows > 1).then_some(card.rows),
        };
        let encoding = self.distillation.encoding(card.classes);
        let terms = self.temperatures.iter().map(|t| Terms::new(*t, encoding));
        Store::open(&Place::of(&self.path, &self.base)?, &identity, terms)
    }
}

/// One session.
struct Served<'a> {
    membership: &'a Membership,
    session: pb::Session,
    heartbeat: Duration,
    serving: Arc<Serving>,
    recorder: Option<Arc<Recorder>>,
    tasks: TaskGroup,
    span: Span,
}

impl Served<'_> {
    /// Until the run ends, the session is lost, or the process shuts down.
    async fn serve(mut self) -> anyhow::Result<Left> {
        let span = self.span.clone();
        async {
            let left = self.follow().await?;
            match left {
                Left::Finished => drop(self.membership.serving.send_replace(None)),
                // Students hear that they must ask elsewhere, and are still answered what they asked for here.
                Left::Shutdown => self.leave().await,
                Left::Lost => {}
            }
            Ok(left)
        }
        .instrument(span)
        .await
    }

    /// Ends the session, if the coordinator is there to hear of it: else it runs out.
    async fn leave(&self) {
        let session = Some(self.session.clone());
        let mut fleet = retort_client::fleet(self.membership.control.clone());
        let _ = tokio::time::timeout(LEAVING, fleet.leave(pb::LeaveRequest { session })).await;
    }

    /// Follows the coordinator's commands until the run ends; a broken stream is opened again.
    async fn follow(&mut self) -> anyhow::Result<Left> {
        let token = self.tasks.token().clone();
        let mut backoff = Backoff::new(self.session.incarnation);
        loop {
            let (up, messages) = mpsc::channel(HEARTBEATS);
            up.send(self.beat()).await.context("queue heartbeat")?;
            let mut fleet = retort_client::fleet(self.membership.control.clone());
            let result = match fleet.control(ReceiverStream::new(messages)).await {
                Ok(down) => {
                    backoff.reset();
                    self.follow_stream(&up, down.into_inner()).await
                }
                Err(status) => Err(status),
            };
            match result {
                Ok(left) => return Ok(left),
                Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::NotFound) => {
                    warn!("session lost: {}", status.message());
                    return Ok(Left::Lost);
                }
                Err(status) => {
                    // The coordinator is away: what is loaded goes on serving.
                    warn!("control stream: {}", status.message());
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next_delay()) => {}
                        () = token.cancelled() => return Ok(Left::Shutdown),
                    }
                }
            }
        }
    }

    async fn follow_stream(
        &mut self,
        up: &mpsc::Sender<pb::ControlUp>,
        mut down: tonic::Streaming<pb::ControlDown>,
    ) -> Result<Left, tonic::Status> {
        let token = self.tasks.token().clone();
        let mut beats = tokio::time::interval(self.heartbeat);
        let mut versions = self.serving.device.versions.clone();
        loop {
            // Cancel-safe: streams, intervals and watches keep what was not taken.
            tokio::select! {
                message = down.message() => {
                    let message = message?.ok_or_else(|| tonic::Status::unavailable("the stream ended"))?;
                    if let Some(left) = self.obey(message).await {
                        return Ok(left);
                    }
                }
                _ = beats.tick() => { let _ = up.try_send(self.beat()); }
                _ = versions.changed() => { let _ = up.try_send(self.beat()); }
                () = token.cancelled() => return Ok(Left::Shutdown),
            }
        }
    }

    async fn obey(&mut self, message: pb::ControlDown) -> Option<Left> {
        use pb::control_down::Command;
        match message.command? {
            Command::Stage(stage) => self.stage(stage.version),
            Command::Activate(activate) => {
                self.serving.device.activate(activate.version, activate.keep_from);
            }
            Command::Finish(finish) => {
                info!("run ended: {}", finish.reason);
                self.leave().await;
                return Some(Left::Finished);
            }
            Command::Alive(_)
            | Command::Floor(_)
            | Command::Teacher(_)
            | Command::Revoke(_)
            | Command::Poison(_) => {}
        }
        None
    }

    fn beat(&self) -> pb::ControlUp {
        let device = &self.serving.device;
        let versions = device.versions.borrow().clone();
        let c = device.requests.counters();
        let counters = [
            ("forwards", c.forwards),
            ("hits", c.hits),
            ("coalesced", c.coalesced),
            ("misses", c.misses),
            ("replayed", c.replayed),
            ("evicted", c.evicted),
            ("overloaded", c.overloaded),
            ("abandoned", c.abandoned),
            ("refetched", self.serving.refetched.load(Ordering::Relaxed)),
        ];
        pb::ControlUp {
            session: Some(self.session.clone()),
            samples_per_s: c.capacity,
            staged: versions.staged.into_iter().collect(),
            active: versions.active,
            queued_samples: c.queued,
            unhealthy: versions.unhealthy,
            counters: counters.map(|(name, count)| (name.to_owned(), count)).into(),
            device: self.serving.device_name.clone(),
            ..Default::default()
        }
    }

    /// Fetches and loads a version beside the serving one.
    fn stage(&self, version: u64) {
        if self.serving.device.versions.borrow().staged.contains(&version) {
            return;
        }
        let serving = self.serving.clone();
        let recorder = self.recorder.clone();
        let data = self.membership.data.clone();
        let token = self.tasks.token().clone();
        self.tasks.spawn("stage", OnError::Log, async move {
            let mut backoff = Backoff::new(version + 1);
            loop {
                match load_version(&serving, recorder.clone(), data.clone(), version).await {
                    Ok(engine) => {
                        serving.device.stage(version, engine);
                        return match serving.store.get().filter(|s| s.is_mirrored()).cloned() {
                            Some(store) => bring(store, Arc::downgrade(&serving), token).await,
                            None => Ok(()),
                        };
                    }
                    Err(e) => {
                        if matches!(e.downcast_ref(), Some(FileError::Corrupt { .. })) {
                            serving.refetched.fetch_add(1, Ordering::Relaxed);
                        }
                        warn!(version, "stage: {e:#}");
                    }
                }
                // A version that was pruned meanwhile is superseded: somebody will ask for the next.
                if serving.device.versions.borrow().active > Some(version) {
                    return Ok(());
                }
                tokio::select! {
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                    () = token.cancelled() => return Ok(()),
                }
            }
        });
    }
}

/// Brings recorded rows to their bucket for as long as this is served, and at the end.
async fn bring(store: Arc<Store>, serving: Weak<Serving>, token: CancellationToken) -> anyhow::Result<()> {
    let mut last = false;
    while !last {
        tokio::select! {
            () = tokio::time::sleep(BRING) => {}
            () = token.cancelled() => {}
        }
        last = token.is_cancelled() || serving.strong_count() == 0;
        let bringing = store.clone();
        let brought = tokio::task::spawn_blocking(move || bringing.bring()).await;
        if let Err(e) = brought.context("bring soft targets")? {
            warn!(
                "recorded soft targets stay here{}: {e}",
                if last { "" } else { " for now" }
            );
        }
    }
    Ok(())
}

async fn load_version(
    serving: &Arc<Serving>,
    recorder: Option<Arc<Recorder>>,
    data: Channel,
    version: u64,
) -> anyhow::Result<Box<dyn TeacherEngine>> {
    let mut client = retort_client::versions(data);
    let at = (serving.run.as_str(), serving.teacher.as_str());
    let card = retort_client::fetch(&mut client, at, Some(version), "model.json").await?;
    let card: Card = serde_json::from_slice(&card.bytes).context("model card")?;
    let weights = retort_client::fetch(&mut client, at, Some(version), card.weights_file()).await?;
    let dataset = &serving.device.blocks.dataset;
    let (classes, rows) = (dataset.classes(), dataset.rows());
    anyhow::ensure!(
        (card.classes, card.rows) == (classes, rows),
        "version {version} has {} classes and {} targets a sample, the data {classes} and {rows}",
        card.classes,
        card.rows
    );
    let serving = serving.clone();
    tokio::task::spawn_blocking(move || {
        if let Some(recorder) = recorder
            && is_recorded(&serving, &recorder, &card, &weights.bytes)?
        {
            let input_len = serving.device.blocks.dataset.shape().len();
            let replay = Replay {
                input_len,
                classes,
                rows,
            };
            return Ok(Box::new(replay) as Box<dyn TeacherEngine>);
        }
        let device = serving.device_name.parse()?;
        Ok(Box::new(BurnEngine::from_weights(&card.spec(), &weights.bytes, device)?) as _)
    })
    .await
    .context("load version")?
}

/// Opens the store, and says whether it holds every row that may be asked for.
fn is_recorded(serving: &Serving, recorder: &Recorder, card: &Card, weights: &[u8]) -> anyhow::Result<bool> {
    let store = recorder
        .open(serving, card, weights)
        .with_context(|| format!("soft-target store {}", recorder.path.display()))?;
    let (recorded, samples) = store.recorded();
    info!(
        store = %recorder.path.display(),
        "soft-target store: {recorded} of {samples} samples are recorded{}",
        if recorded == samples { ", the model is not loaded" } else { "" }
    );
    let _ = serving.store.set(Arc::new(store)); // it was opened before
    Ok(recorded == samples)
}
