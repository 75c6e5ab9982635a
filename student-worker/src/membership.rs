//! Membership in the fleet: wait for a run, join it, train a part, leave, and so on.

use std::path::Path;

use anyhow::Context;
use retort_client::{Backoff, Dialer, Refusals};
use retort_job::Job;
use retort_models::{CARD_FILE, Card, Spec};
use retort_proto::pb;
use retort_runtime::TaskGroup;
use retort_tls::Role;
use tracing::{Instrument, info_span, warn};

use crate::config::Config;
use crate::part::{Loaded, Part};
use crate::replica::{Left, Replica};
use crate::rpc::{self, Channels};

/// How long one question for a run is held open.
const NEXT_RUN_WAIT_MS: u32 = 10_000;

/// The coordinator did not say whether there is a run.
#[derive(Debug, thiserror::Error)]
#[error("ask for a run: {}", retort_client::reason(.0))]
struct Unasked(tonic::Status);

pub(crate) struct Membership {
    config: Config,
    name: String,
    channels: Channels,
}

impl Membership {
    pub(crate) fn new(config: Config, dialer: Dialer, name: String) -> anyhow::Result<Self> {
        let control = dialer.connect(&config.coordinator, Role::Coordinator)?;
        let data = dialer.connect(&config.coordinator, Role::Coordinator)?;
        Ok(Self {
            config,
            name,
            channels: Channels {
                control,
                data,
                dialer,
            },
        })
    }

    pub(crate) async fn run(self, tasks: &TaskGroup) -> anyhow::Result<()> {
        let token = tasks.token().clone();
        let mut backoff = Backoff::new(rpc::seed(&self.name, 0));
        // Kept between sessions of one run: reading the data again would be the longest pause.
        let mut loaded: Option<Loaded> = None;
        let mut refusals = Refusals::default();
        while !token.is_cancelled() {
            let offered = tokio::select! {
                offered = self.next_run() => offered,
                () = token.cancelled() => break,
            };
            let worked_for = loaded.as_ref().filter(|_| self.config.once).map(|l| &l.run);
            let ended = match (&offered, worked_for) {
                (Ok(offered), Some(run)) if offered.run != *run => self.has_ended(run).await,
                _ => Ok(false),
            };
            let result = match (ended, offered) {
                (Ok(true), _) => return Ok(()),
                (Err(e), _) | (_, Err(e)) => Err(e),
                (_, Ok(offered)) if offered.run.is_empty() => Ok(Left::Finished),
                (_, Ok(offered)) => self.take_part(offered, &mut loaded, tasks).await,
            };
            match result {
                Ok(Left::Shutdown) => break,
                Ok(left) => {
                    refusals = Refusals::default();
                    match left {
                        Left::Lost(reason) => warn!("session lost: {reason}"),
                        Left::Finished | Left::Shutdown => backoff.reset(),
                    }
                }
                Err(e) => {
                    if refusals.note(e.downcast_ref::<Unasked>().map(|Unasked(status)| status)) {
                        return Err(e);
                    }
                    warn!("not in a run: {e:#}");
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next_delay()) => {}
                        () = token.cancelled() => break,
                    }
                }
            }
        }
        // Whoever starts workers for one run must not take this one for done: it is to be started again.
        anyhow::ensure!(
            !self.config.once,
            "told to leave before the run had ended (--once)"
        );
        Ok(())
    }

    async fn next_run(&self) -> anyhow::Result<pb::NextRunReply> {
        let request = pb::NextRunRequest {
            role: pb::Role::StudentWorker.into(),
            worker: self.name.clone(),
            wait_ms: NEXT_RUN_WAIT_MS,
        };
        let reply = retort_client::fleet(self.channels.control.clone())
            .next_run(request)
            .await;
        Ok(reply.map_err(Unasked)?.into_inner())
    }

    /// Whether a run has ended for good: one that was stopped may go on.
    async fn has_ended(&self, run: &str) -> anyhow::Result<bool> {
        let request = pb::GetRunRequest {
            run: run.to_owned(),
            without_curves: true,
        };
        let status = retort_client::status(self.channels.control.clone())
            .get_run(request)
            .await
            .context("ask how the run is")?;
        Ok(matches!(status.into_inner().state.as_str(), "done" | "failed"))
    }

    async fn take_part(
        &self,
        offered: pb::NextRunReply,
        cache: &mut Option<Loaded>,
        tasks: &TaskGroup,
    ) -> anyhow::Result<Left> {
        let loaded = match cache.take() {
            Some(loaded) if loaded.run == offered.run => loaded,
            _ => {
                let job: Job = retort_job::parse(&offered.job_toml, Path::new("job"), &[])?;
                Loaded::read(offered.run, job, offered.seed, self.config.base.clone()).await?
            }
        };
        let loaded = cache.insert(loaded);
        let token = tasks.token().clone();
        let digest = loaded.dataset.digest().to_owned();
        let who = (loaded.run.as_str(), self.name.as_str(), digest.as_str());
        let first = rpc::Registration::default();
        let (joined, asked) = tokio::select! {
            registered = rpc::register(self.channels.control.clone(), who, &first) => match registered {
                Ok(registered) => registered,
                Err(reason) => anyhow::bail!("register: {reason}"),
            },
            () = token.cancelled() => return Ok(Left::Shutdown),
        };
        let sender = self.sender(loaded, &joined.part).await?;
        let part = Part::new(loaded, &joined.part, sender.as_ref())?;
        let span = info_span!("train", run = loaded.run, worker = self.name, group = joined.part);
        let replica = Replica::new(loaded, part, self.name.clone(), self.channels.clone(), tasks)?;
        replica.run(joined, asked).instrument(span).await
    }

    /// The network of the teacher that a group learns from by a layer, if it does: that of a group of the job, or what
    /// came with a checkpoint.
    async fn sender(&self, loaded: &Loaded, group: &str) -> anyhow::Result<Option<Spec>> {
        let stream = match loaded.layered(group) {
            None => return Ok(None),
            Some((_, Some(spec))) => return Ok(Some(spec)),
            Some((stream, None)) => stream,
        };
        let mut versions = retort_client::versions(self.channels.data.clone());
        let at = (loaded.run.as_str(), stream.as_str());
        let card = retort_client::fetch(&mut versions, at, None, CARD_FILE).await;
        let card = card.with_context(|| format!("model card of {stream}"))?;
        let card: Card = serde_json::from_slice(&card.bytes).context("model card")?;
        Ok(Some(card.spec()))
    }
}
