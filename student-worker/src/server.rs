//! Health and reflection on the worker's listener, membership beside it.

use anyhow::Context;
use retort_client::{Dialer, MAX_STREAMS};
use retort_proto::DESCRIPTORS;
use retort_runtime::{OnError, TaskGroup, default_name};
use retort_tls::{Incoming, Security};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tracing::info;

use crate::config::{Config, SHUTDOWN_GRACE};
use crate::membership::Membership;

/// Works until the group's token is cancelled.
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
        .unwrap_or_else(|| default_name("student-worker"));
    info!(name, %address, "student worker listens");
    let membership = Membership::new(config, Dialer::of(&security), name)?;
    let (_health, health_service) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let served = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .layer(security.guard())
        .add_service(health_service)
        .add_service(reflection().build_v1().context("reflection")?)
        .add_service(reflection().build_v1alpha().context("reflection")?)
        .serve_with_incoming_shutdown(
            Incoming::new(listener, security),
            tasks.token().clone().cancelled_owned(),
        );
    tasks.spawn("health", OnError::Log, async move {
        served.await.context("serve health")
    });
    // Membership leaves its session in order when the token is cancelled.
    let result = membership.run(&tasks).await;
    let ended = tasks.end(SHUTDOWN_GRACE).await;
    result.and(ended)
}
