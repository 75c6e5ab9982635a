//! Brings the server up on one listener: the gRPC side at once, runs as the coordinator offers them.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context;
use retort_client::{Dialer, MAX_MESSAGE, MAX_STREAMS};
use retort_proto::DESCRIPTORS;
use retort_proto::pb::teacher_server::TeacherServer;
use retort_runtime::{OnError, TaskGroup, default_name, own_address};
use retort_tls::{Incoming, Security};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tracing::info;

use crate::blocks::Blocks;
use crate::config::{Config, DRAIN, SHUTDOWN_GRACE};
use crate::device::Device;
use crate::engine::TeacherEngine;
use crate::requests::Limits;
use crate::service::TeacherService;
use crate::serving::{Current, Serving};
use crate::session::Membership;

/// Serves until the group's token is cancelled.
pub async fn run(
    config: Config,
    security: Security,
    listener: TcpListener,
    tasks: TaskGroup,
) -> anyhow::Result<()> {
    let address = listener.local_addr().context("address of the listener")?;
    let name = config
        .name
        .clone()
        .unwrap_or_else(|| default_name("teacher-server"));
    let advertise = config.advertise.clone();
    let advertise = advertise.unwrap_or_else(|| own_address(security.scheme(), address));
    let (serving, current) = watch::channel(None);
    let unread = config.limits().unread_bytes;
    // Kept here: streams go on for a while after membership has left.
    let membership = Membership::new(
        config,
        &Dialer::of(&security),
        (name.clone(), advertise),
        serving.clone(),
    )?;
    tasks.spawn("membership", OnError::Shutdown, membership.run(tasks.clone()));

    let teacher = service(current, tasks.clone(), unread);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<TeacherServer<TeacherService>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    info!(name, %address, "teacher server listens");
    let token = tasks.token().clone();
    let served = builder()
        .layer(security.guard())
        .add_service(health_service)
        .add_service(reflection().build_v1().context("reflection")?)
        .add_service(reflection().build_v1alpha().context("reflection")?)
        .add_service(teacher)
        .serve_with_incoming_shutdown(Incoming::new(listener, security), token.clone().cancelled_owned());
    tokio::select! {
        result = served => result.context("serve")?,
        () = async {
            token.cancelled().await;
            health.set_not_serving::<TeacherServer<TeacherService>>().await;
            tokio::time::sleep(DRAIN).await;
        } => {}
    }
    drop(serving);
    tasks.end(SHUTDOWN_GRACE).await
}

fn builder() -> Server {
    Server::builder()
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .max_concurrent_streams(MAX_STREAMS)
}

fn service(current: Current, tasks: TaskGroup, max_unread: u64) -> TeacherServer<TeacherService> {
    let service = TeacherService {
        current,
        tasks,
        max_unread,
    };
    TeacherServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// One engine's version 0, served without a coordinator: for embedding, tests and benches.
pub struct Standalone {
    /// Run that readers must name.
    pub run: String,
    /// Teacher that readers must name.
    pub teacher: String,
    /// The data behind block numbers.
    pub blocks: Arc<Blocks>,
    /// What answers.
    pub engine: Box<dyn TeacherEngine>,
    /// Groups that are expected to read each block.
    pub groups: BTreeSet<String>,
    /// Queue, batches, cache.
    pub limits: Limits,
}

impl Standalone {
    /// The gRPC service, to be served on any listener; it ends with the group's token.
    ///
    /// # Errors
    ///
    /// If the device thread can't be started.
    pub fn router(self, tasks: &TaskGroup) -> std::io::Result<Router> {
        let unread = self.limits.unread_bytes;
        let device = Device::start(self.blocks, self.limits, self.groups)?;
        device.stage(0, self.engine);
        device.activate(0, 0);
        let serving = Arc::new(Serving::new((self.run, self.teacher), String::new(), device));
        // Nothing replaces it: streams hold what they need after the sender has gone.
        let (sender, current) = watch::channel(Some(serving));
        let token = tasks.token().clone();
        tasks.spawn("serving", OnError::Log, async move {
            token.cancelled().await;
            drop(sender);
            Ok(())
        });
        Ok(builder().add_service(service(current, tasks.clone(), unread)))
    }
}
