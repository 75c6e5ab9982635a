//! Membership in the fleet: wait for a run, join it, train a part, leave, and so on.

use std::path::Path;

use anyhow::Context;
use retort_client::Backoff;
use retort_coordinator_core::round::{RoundPlan, Start};
use retort_job::Job;
use retort_proto::{PROTOCOL, pb, required};
use retort_runtime::TaskGroup;
use tonic::transport::Channel;
use tracing::{Instrument, info, info_span, warn};

use crate::config::Config;
use crate::part::{Loaded, Part};
use crate::session::{Joined, Left, Session};

/// How long one question for a run is held open.
const NEXT_RUN_WAIT_MS: u32 = 10_000;

pub(crate) struct Membership {
    config: Config,
    name: String,
    control: Channel,
    data: Channel,
}

impl Membership {
    pub(crate) fn new(config: Config, name: String) -> anyhow::Result<Self> {
        // Control and data do not share a connection: a saturated one must not look like death.
        let control = retort_client::connect(&config.coordinator)?;
        let data = retort_client::connect(&config.coordinator)?;
        Ok(Self {
            config,
            name,
            control,
            data,
        })
    }

    pub(crate) async fn run(self, tasks: &TaskGroup) -> anyhow::Result<()> {
        let token = tasks.token().clone();
        let seed = self
            .name
            .bytes()
            .fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
        let mut backoff = Backoff::new(seed);
        // Kept between sessions of one run: reading the data again would be the longest pause.
        let mut loaded = None;
        while !token.is_cancelled() {
            let offered = tokio::select! {
                offered = self.next_run() => offered,
                () = token.cancelled() => return Ok(()),
            };
            let result = match offered {
                Ok(offered) if offered.run.is_empty() => Ok(Left::Finished),
                Ok(offered) => self.take_part(offered, &mut loaded, tasks).await,
                Err(e) => Err(e),
            };
            match result {
                Ok(Left::Shutdown) => return Ok(()),
                Ok(Left::Finished) => backoff.reset(),
                Ok(Left::Lost(reason)) => warn!("session lost: {reason}"),
                Err(e) => {
                    warn!("not in a run: {e:#}");
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next_delay()) => {}
                        () = token.cancelled() => return Ok(()),
                    }
                }
            }
        }
        Ok(())
    }

    async fn next_run(&self) -> anyhow::Result<pb::NextRunReply> {
        let request = pb::NextRunRequest {
            role: pb::Role::StudentWorker.into(),
            worker: self.name.clone(),
            wait_ms: NEXT_RUN_WAIT_MS,
        };
        let reply = retort_client::fleet(self.control.clone()).next_run(request).await;
        Ok(reply.context("ask for a run")?.into_inner())
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
        let registered = retort_client::fleet(self.control.clone())
            .register(pb::RegisterRequest {
                protocol: PROTOCOL,
                run: loaded.run.clone(),
                role: pb::Role::StudentWorker.into(),
                worker: self.name.clone(),
                dataset_digest: loaded.dataset.digest().to_owned(),
                address: String::new(),
                device: String::new(),
            })
            .await
            .context("register")?
            .into_inner();
        let part = Part::new(loaded, &registered.part)?;
        let (start, plan): (Start, RoundPlan) = required(registered.start, "start")?;
        let joined = Joined {
            session: required(registered.session, "session")?,
            heartbeat_ms: u64::from(registered.heartbeat_ms.max(10)),
            start,
            plan,
            teachers: registered.teachers.into_iter().map(Into::into).collect(),
        };
        let span = info_span!(
            "train",
            run = loaded.run,
            group = registered.part,
            incarnation = joined.session.incarnation
        );
        async {
            info!(start = ?joined.start, "joined");
            Session::new(
                loaded,
                part,
                joined,
                (self.control.clone(), self.data.clone()),
                tasks,
            )?
            .run()
            .await
        }
        .instrument(span)
        .await
    }
}
