//! Brings the services up, gRPC and HTTP on a listener each, and takes them down in order.

use std::time::Duration;

use anyhow::Context;
use retort_client::{MAX_MESSAGE, MAX_STREAMS};
use retort_proto::{DESCRIPTORS, pb};
use retort_runtime::{OnError, TaskGroup, announce, listen};
use retort_tls::{Authority, CA_KEY, Incoming, Security};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::info;

use crate::brain;
use crate::config::Config;
use crate::http;
use crate::journal::etcd::{EtcdJournal, Leadership};
use crate::journal::{FileJournal, Journal};
use crate::services::{
    FleetService, JoinService, ReduceService, RunsService, StatusService, VersionsService,
};
use crate::store::{FolderShelf, Store};
use crate::watchers::Watchers;

/// Silence after which the other end of a connection is asked whether it is there, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The ports of a coordinator.
#[derive(Debug)]
pub struct Listeners {
    grpc: TcpListener,
    http: TcpListener,
    /// With records in etcd.
    leadership: Option<Leadership>,
}

/// Binds both ports, then says where they are: who finds the gRPC address announced finds the other too. Where records lie in
/// etcd, it waits before that until no other coordinator leads. `None`: `token` was cancelled meanwhile.
pub async fn bind(
    config: &Config,
    security: &Security,
    token: &CancellationToken,
) -> anyhow::Result<Option<Listeners>> {
    let leadership = match config.place()? {
        Some(place) => match Leadership::win(&place, token).await.context("--etcd")? {
            Some(leadership) => Some(leadership),
            None => return Ok(None),
        },
        None => None,
    };
    let grpc = listen(config.listen).await?;
    let http = listen(config.http()).await.context("--http")?;
    for (path, listener, scheme) in [
        (&config.announce_http, &http, "http"),
        (&config.announce, &grpc, security.scheme()),
    ] {
        if let Some(path) = path {
            announce(path, &format!("{scheme}://{}", listener.local_addr()?))?;
        }
    }
    Ok(Some(Listeners {
        grpc,
        http,
        leadership,
    }))
}

/// Serves until the group's token is cancelled, then drains open streams for a bounded time.
pub async fn run(
    config: Config,
    security: Security,
    listeners: Listeners,
    tasks: TaskGroup,
) -> anyhow::Result<()> {
    let address = listeners.grpc.local_addr().context("address of the listener")?;
    let http_address = listeners.http.local_addr().context("address of the HTTP port")?;
    let token = tasks.token().clone();
    let journal: Box<dyn Journal> = match listeners.leadership {
        None => Box::new(FileJournal::open(&config.data_dir).context("open journal")?),
        Some(leadership) => {
            let journal = EtcdJournal::new(&leadership);
            tasks.spawn("leadership", OnError::Shutdown, leadership.keep(token.clone()));
            Box::new(journal)
        }
    };
    // Only who has the journal may clear what a former coordinator left of uploads.
    let (handle, thinking) = brain::start(store(&config)?, journal, token.clone())?;
    tasks.spawn("brain", OnError::Shutdown, thinking);
    let watchers = Watchers::new(handle.clone(), token.clone());
    // Whoever reaches one port of such a coordinator reaches the other.
    let takes_orders =
        security.credentials().is_none() && address.ip().is_loopback() && http_address.ip().is_loopback();
    let shared = (handle.clone(), watchers.clone());
    let pages = http::serve(listeners.http, shared, takes_orders, token.clone());
    tasks.spawn("http", OnError::Shutdown, pages);

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
        watchers,
    });
    let join = join(&security)?;
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<pb::fleet_server::FleetServer<FleetService>>()
        .await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    info!(%address, http = %http_address, data_dir = %config.data_dir.display(), "coordinator listens");
    let guard = security.guard();
    let served = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        // Who is gone without a word must not keep a connection for ever.
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .layer(guard)
        .add_service(health_service)
        .add_service(reflection().build_v1().context("reflection")?)
        .add_service(reflection().build_v1alpha().context("reflection")?)
        .add_service(fleet.max_decoding_message_size(MAX_MESSAGE))
        .add_service(reduce.max_decoding_message_size(MAX_MESSAGE))
        .add_service(versions.max_decoding_message_size(MAX_MESSAGE))
        .add_service(runs)
        .add_service(status)
        .add_optional_service(join)
        .serve_with_incoming_shutdown(
            Incoming::new(listeners.grpc, security),
            token.clone().cancelled_owned(),
        );
    tokio::select! {
        result = served => result.context("serve")?,
        // Long-lived streams must not keep a stopping coordinator for ever.
        () = async { token.cancelled().await; tokio::time::sleep(config.shutdown_grace()).await } => {}
    }
    tasks.end(config.shutdown_grace()).await
}

/// The service that signs certificates, where the folder holds the CA's key.
fn join(security: &Security) -> anyhow::Result<Option<pb::join_server::JoinServer<JoinService>>> {
    let Some(credentials) = security.credentials() else {
        return Ok(None);
    };
    if !credentials.dir().join(CA_KEY).exists() {
        return Ok(None);
    }
    let authority = Authority::read(credentials.dir()).context("the CA of --tls")?;
    Ok(Some(pb::join_server::JoinServer::new(JoinService::new(
        authority,
    ))))
}

fn store(config: &Config) -> anyhow::Result<Store> {
    match &config.versions {
        None => Ok(Store::new(
            FolderShelf::open(&config.data_dir).context("open store")?,
        )),
        #[cfg(feature = "object-store")]
        Some(bucket) => {
            let shelf = tokio::task::block_in_place(|| crate::store::BucketShelf::open(bucket.clone()));
            Ok(Store::new(shelf.context("--versions")?))
        }
        #[cfg(not(feature = "object-store"))]
        Some(never) => match *never {},
    }
}
