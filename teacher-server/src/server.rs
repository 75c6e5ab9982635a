//! Brings the server up on one listener: the gRPC side at once, runs as the coordinator offers them.

use anyhow::Context;
use retort_client::MAX_MESSAGE;
use retort_proto::{DESCRIPTORS, pb};
use retort_runtime::{OnError, TaskGroup, default_name, own_address};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::info;

use crate::config::{Config, SHUTDOWN_GRACE};
use crate::service::TeacherService;
use crate::session::Membership;

/// Serves until the group's token is cancelled.
pub async fn run(config: Config, listener: TcpListener, tasks: TaskGroup) -> anyhow::Result<()> {
    let address = listener.local_addr().context("address of the listener")?;
    let name = config
        .name
        .clone()
        .unwrap_or_else(|| default_name("teacher-server"));
    let advertise = config.advertise.clone().unwrap_or_else(|| own_address(address));
    let (serving, current) = watch::channel(None);
    let membership = Membership::new(config, name.clone(), advertise, serving)?;
    tasks.spawn("membership", OnError::Shutdown, membership.run(tasks.clone()));

    let teacher = pb::teacher_server::TeacherServer::new(TeacherService {
        current,
        tasks: tasks.clone(),
    });
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<pb::teacher_server::TeacherServer<TeacherService>>()
        .await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    info!(name, %address, "teacher server listens");
    let token = tasks.token().clone();
    let served = Server::builder()
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .add_service(health_service)
        .add_service(reflection().build_v1().context("reflection")?)
        .add_service(reflection().build_v1alpha().context("reflection")?)
        .add_service(teacher.max_decoding_message_size(MAX_MESSAGE))
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            token.clone().cancelled_owned(),
        );
    tokio::select! {
        result = served => result.context("serve")?,
        // Long-lived streams must not keep a stopping server for ever.
        () = async { token.cancelled().await; tokio::time::sleep(SHUTDOWN_GRACE).await } => {}
    }
    tasks.end(SHUTDOWN_GRACE).await
}
