//! A coordinator in a process of its own, and what workers say to it over gRPC.

use std::time::Duration;

use anyhow::Context;
use retort_client::{Channel, connect, fleet, reduce, runs};
use retort_proto::{PROTOCOL, pb};
use retort_tests::{Harness, Running, eventually};

/// Positions of an epoch: enough that no bench ends one.
const POSITIONS: u64 = 1_000_000_000;
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of a message of weights, as the student worker's.
const CHUNK: usize = 1 << 20;

pub(crate) struct Coordinator {
    pub(crate) address: String,
    // Dropped in this order: the process before its folder.
    _process: Running,
    _harness: Harness,
}

impl Coordinator {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let harness = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
        let announce = harness.path("address");
        let (data, file) = (harness.path("data"), announce.display().to_string());
        let process = harness.start(&[
            "coordinator",
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            &data.display().to_string(),
            "--announce",
            &file,
        ]);
        let address = eventually("the coordinator's address", LIMIT, || {
            let text = std::fs::read_to_string(&announce).ok()?;
            (!text.is_empty()).then(|| text.trim().to_owned())
        })?;
        Ok(Self {
            address,
            _process: process,
            _harness: harness,
        })
    }

    pub(crate) fn channel(&self) -> anyhow::Result<Channel> {
        Ok(connect(&self.address)?)
    }

    /// Submits a run of `groups` students with `replicas` workers each, and gives its id.
    pub(crate) async fn submit(&self, groups: u32, replicas: u32) -> anyhow::Result<String> {
        let sync = if replicas > 1 { "local-sgd" } else { "none" };
        let mut job = format!(
            r#"
            [run]
            name = "bench"
            epochs = 1
            batch_size = 64
            [dataset]
            name = "digits"
            [[teachers]]
            name = "teacher"
            model = {{ architecture = "mlp", hidden = [8] }}
            source = {{ kind = "trained", learning_rate = 0.01, publish_every = 20 }}
            [distillation]
            pace = "free"
            [sync]
            strategy = "{sync}"
            [fleet]
            lease = "5s"
            heartbeat = "500ms"
            checkpoint = "1h"
            "#
        );
        for i in 0..groups {
            job.push_str(&format!(
                r#"
                [[students]]
                name = "s{i:03}"
                model = {{ architecture = "mlp", hidden = [8] }}
                learning_rate = 0.01
                replicas = {replicas}
                teachers = [{{ name = "teacher", weight = 1.0 }}]
                "#
            ));
        }
        let request = pb::SubmitRequest {
            job_toml: job,
            seed: 1,
            positions: POSITIONS,
            dataset_digest: digest(),
            run: String::new(),
        };
        let reply = runs(self.channel()?).submit(request).await?;
        Ok(reply.into_inner().run)
    }
}

/// One simulated worker with a session.
pub(crate) struct Worker {
    pub(crate) channel: Channel,
    pub(crate) session: pb::Session,
    pub(crate) plan: pb::RoundPlan,
    requests: u64,
}

impl Worker {
    pub(crate) async fn register(channel: Channel, run: &str, number: usize) -> anyhow::Result<Self> {
        let request = pb::RegisterRequest {
            protocol: PROTOCOL,
            run: run.to_owned(),
            role: pb::Role::StudentWorker.into(),
            worker: format!("worker-{number:05}"),
            dataset_digest: digest(),
            process: number as u64,
            attempt: 1,
            ..pb::RegisterRequest::default()
        };
        let reply = fleet(channel.clone()).register(request).await?.into_inner();
        let start = reply.start.context("a student worker is told how to start")?;
        Ok(Self {
            channel,
            session: reply.session.context("a session")?,
            plan: start.plan.context("a plan")?,
            requests: 0,
        })
    }

    pub(crate) async fn lease(&mut self) -> anyhow::Result<(u32, pb::Positions)> {
        let request = pb::LeaseRequest {
            session: Some(self.session.clone()),
            wait_ms: 0,
            sequence: self.requests + 1,
            received: self.requests,
        };
        self.requests += 1;
        let reply = fleet(self.channel.clone()).lease(request).await?.into_inner();
        let Some(pb::lease_reply::Reply::Granted(granted)) = reply.reply else {
            anyhow::bail!("{reply:?}: expected a grant");
        };
        Ok((granted.epoch, granted.positions.context("positions")?))
    }

    /// Reports what was trained, and takes the next round's plan.
    pub(crate) async fn contribute(&mut self, epoch: u32, trained: Vec<pb::Positions>) -> anyhow::Result<()> {
        self.exchange(epoch, trained, &bytes::Bytes::new()).await?;
        Ok(())
    }

    /// As [`Worker::contribute`] does, with weights; how many bytes came back.
    pub(crate) async fn exchange(
        &mut self,
        epoch: u32,
        trained: Vec<pb::Positions>,
        weights: &bytes::Bytes,
    ) -> anyhow::Result<usize> {
        use pb::contribute_request::Part;
        let samples = trained.iter().map(|p| p.end - p.begin).sum();
        let header = pb::Contribution {
            session: Some(self.session.clone()),
            generation: self.plan.generation,
            round: self.plan.round,
            epoch,
            steps: u32::try_from(trained.len())?,
            trained,
            sums: Some(pb::TrainingSums {
                samples,
                ..pb::TrainingSums::default()
            }),
            ..pb::Contribution::default()
        };
        let message = |part| pb::ContributeRequest { part: Some(part) };
        let mut messages = vec![message(Part::Header(header))];
        for start in (0..weights.len()).step_by(CHUNK) {
            let chunk = weights.slice(start..weights.len().min(start + CHUNK));
            messages.push(message(Part::Weights(chunk)));
        }
        let messages = tokio_stream::iter(messages);
        let mut replies = reduce(self.channel.clone())
            .contribute(messages)
            .await?
            .into_inner();
        let first = replies.message().await?.and_then(|m| m.part);
        let Some(pb::contribute_reply::Part::Header(merged)) = first else {
            anyhow::bail!("{first:?}: expected the merge's header");
        };
        self.plan = merged.plan.context("a plan")?;
        let mut received = 0;
        while let Some(message) = replies.message().await? {
            if let Some(pb::contribute_reply::Part::Weights(chunk)) = message.part {
                received += chunk.len();
            }
        }
        Ok(received)
    }

    /// Publishes the state at the round's start, if the plan asks for it.
    pub(crate) async fn publish_if_asked(&self) -> anyhow::Result<()> {
        if !self.plan.publish {
            return Ok(());
        }
        let by = pb::publish_header::By::Round(pb::PublishedRound {
            session: Some(self.session.clone()),
            generation: self.plan.generation,
            round: self.plan.round,
        });
        let files = vec![("model.safetensors".to_owned(), bytes::Bytes::from_static(b"x"))];
        let mut client = retort_client::versions(self.channel.clone());
        retort_client::publish(&mut client, by, None, files).await?;
        Ok(())
    }
}

/// Of no data: nobody reads any here.
fn digest() -> String {
    "0".repeat(64)
}
