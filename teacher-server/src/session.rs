//! Membership in the fleet: join a run, load versions as asked, switch when told, leave.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use retort_client::{Backoff, Channel, Dialer, Refusals};
use retort_data::order::{Grid, Order};
use retort_job::Job;
use retort_models::Choice;
use retort_proto::{PROTOCOL, pb};
use retort_runtime::{OnError, TaskGroup, registration_number};
use retort_tls::Role;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tracing::{Instrument, Span, info, info_span, warn};

use crate::blocks::Blocks;
use crate::config::Config;
use crate::device::Device;
use crate::loading::{Load, Recorder};
use crate::serving::Serving;

/// How long one question for a run is held open.
const NEXT_RUN_WAIT_MS: u32 = 10_000;
/// Heartbeats waiting to be sent; one is sent at a time.
const HEARTBEATS: usize = 4;
/// How long the coordinator may take to hear that this server leaves.
const LEAVING: Duration = Duration::from_secs(1);

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
    /// The device thread has ended, and nothing here answers any more.
    Broken,
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
                Ok(Some(Left::Broken)) => anyhow::bail!("the device thread has ended"),
                Ok(Some(Left::Finished)) => {
                    // The models of a run that is over wait for nothing.
                    kept = None;
                    backoff.reset();
                }
                Ok(Some(Left::Lost)) => backoff.reset(),
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
                let groups = learns.map(|g| g.name).collect();
                let device = Device::start(blocks, self.config.limits(), groups);
                let device = device.context("start device thread")?;
                let at = (offered.run, registered.part.clone());
                Arc::new(Serving::new(at, choice.to_string(), device))
            }
        };
        let recorder =
            stream.and_then(|s| Some(Recorder::of(&job, &s.name, s.store.as_ref()?, &self.config.base)));
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
                Left::Shutdown | Left::Broken => self.leave().await,
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
                changed = versions.changed() => match changed {
                    Ok(()) => { let _ = up.try_send(self.beat()); }
                    Err(_) => return Ok(Left::Broken),
                },
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

    /// Loads a version beside the serving one, unless it is here or on its way.
    fn stage(&self, version: u64) {
        let (recorder, data) = (self.recorder.clone(), self.membership.data.clone());
        if let Some(load) = Load::begin(&self.serving, version, recorder, data) {
            let current = self.membership.serving.subscribe();
            let token = self.tasks.token().clone();
            self.tasks.spawn("stage", OnError::Log, load.run(current, token));
        }
    }
}

#[cfg(test)]
mod tests;
