//! Brings the services up on one listener and takes them down in order.

use anyhow::Context;
use retort_client::MAX_MESSAGE;
use retort_proto::{DESCRIPTORS, pb};
use retort_runtime::{OnError, TaskGroup};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::info;

use crate::brain;
use crate::config::Config;
use crate::journal::RedbJournal;
use crate::services::{FleetService, ReduceService, RunsService, StatusService, VersionsService};
use crate::store::Store;

/// Serves until the group's token is cancelled, then drains open streams for a bounded time.
pub async fn run(config: Config, listener: TcpListener, tasks: TaskGroup) -> anyhow::Result<()> {
    let store = Store::open(&config.data_dir).context("open store")?;
    let address = listener.local_addr().context("address of the listener")?;
    let token = tasks.token().clone();
    let journal = RedbJournal::open(&config.data_dir).context("open journal")?;
    let (handle, thinking) = brain::start(store, Box::new(journal), token.clone())?;
    tasks.spawn("brain", OnError::Shutdown, thinking);

    let fleet = pb::fleet_server::FleetServer::new(FleetService {
        brain: handle.clone(),
        tasks: tasks.clone(),
    });
    let reduce = pb::reduce_server::ReduceServer::new(ReduceService {
        brain: handle.clone(),
    });
    let versions = pb::versions_server::VersionsServer::new(VersionsService {
        brain: handle.clone(),
    });
    let runs = pb::runs_server::RunsServer::new(RunsService {
        brain: handle.clone(),
    });
    let status = pb::status_server::StatusServer::new(StatusService {
        brain: handle,
        tasks: tasks.clone(),
    });
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<pb::fleet_server::FleetServer<FleetService>>()
        .await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    info!(%address, data_dir = %config.data_dir.display(), "coordinator listens");
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = Server::builder()
        .add_service(health_service)
        .add_service(reflection().build_v1().context("reflection")?)
        .add_service(reflection().build_v1alpha().context("reflection")?)
        .add_service(fleet.max_decoding_message_size(MAX_MESSAGE))
        .add_service(reduce.max_decoding_message_size(MAX_MESSAGE))
        .add_service(versions.max_decoding_message_size(MAX_MESSAGE))
        .add_service(runs)
        .add_service(status)
        .serve_with_incoming_shutdown(incoming, token.clone().cancelled_owned());
    tokio::select! {
        result = served => result.context("serve")?,
        // Long-lived streams must not keep a stopping coordinator for ever.
        () = async { token.cancelled().await; tokio::time::sleep(config.shutdown_grace()).await } => {}
    }
    tasks.end(config.shutdown_grace()).await
}
