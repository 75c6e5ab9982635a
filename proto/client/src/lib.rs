//! Typed clients: endpoint settings, message limits and file transfer in one place.
//!
//! Every connection of the fleet is made here, so that call sites can't choose other limits.

mod backoff;
mod files;

use std::time::Duration;

use retort_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use retort_proto::pb;
use tonic::transport::{Channel, Endpoint};

pub use backoff::Backoff;
pub use files::{CHUNK, Error as FileError, FetchedFile, fetch, publish};

/// Largest message either side takes. Chunks and frames stay far below; a larger one is a mistake.
pub const MAX_MESSAGE: usize = 64 << 20;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 windows: the stream's for one reader's frames, the connection's for all of them.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
/// HTTP/2 frames that this side takes: each costs two system calls, and the default of 16 KiB is small.
const FRAME: u32 = 1 << 20;
/// Pings find a dead peer; far longer than heartbeats, which are the first line.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// The address is no `http://host:port`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no address like http://127.0.0.1:7300")]
pub struct BadAddress(String);

/// A server could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error(transparent)]
    Address(#[from] BadAddress),
    #[error("nobody answers at {address}: {source}")]
    Nobody {
        address: String,
        source: tonic::transport::Error,
    },
}

/// Whether it is an address at all; nothing is connected.
pub fn check(address: &str) -> Result<(), BadAddress> {
    endpoint(address).map(|_| ())
}

/// A lazy connection: it is made at the first call and made again after it broke.
pub fn connect(address: &str) -> Result<Channel, BadAddress> {
    Ok(endpoint(address)?.connect_lazy())
}

/// A connection that is made now, for callers who want to know at once.
pub async fn reach(address: &str) -> Result<Channel, Unreachable> {
    endpoint(address)?
        .connect()
        .await
        .map_err(|source| Unreachable::Nobody {
            address: address.to_owned(),
            source,
        })
}

fn endpoint(address: &str) -> Result<Endpoint, BadAddress> {
    let bad = || BadAddress(address.to_owned());
    if !address.starts_with("http://") && !address.starts_with("https://") {
        return Err(bad());
    }
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|_| bad())?;
    Ok(tuned(endpoint))
}

/// The settings of every connection, for one that is made in another way.
pub fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
}

macro_rules! clients {
    ($($(#[$doc:meta])* $name:ident: $module:ident :: $client:ident;)*) => {
        $($(#[$doc])*
        pub fn $name(channel: Channel) -> pb::$module::$client<Channel> {
            pb::$module::$client::new(channel)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE)
        })*
    };
}

clients! {
    /// Membership, leases, control.
    fleet: fleet_client::FleetClient;
    /// Synchronisation rounds.
    reduce: reduce_client::ReduceClient;
    /// Published versions.
    versions: versions_client::VersionsClient;
    /// Soft targets.
    teacher: teacher_client::TeacherClient;
    /// Submitting and stopping runs.
    runs: runs_client::RunsClient;
    /// Status.
    status: status_client::StatusClient;
}

/// Models on a server of somebody else's.
pub fn inference(channel: Channel) -> GrpcInferenceServiceClient<Channel> {
    GrpcInferenceServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}
