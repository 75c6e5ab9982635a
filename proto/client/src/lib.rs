//! Typed clients: endpoint settings, message limits and file transfer in one place.
//!
//! Every connection of the fleet is made here, so that call sites can't choose other limits.

mod backoff;
mod dialer;
mod files;
mod reason;
mod refusals;

use std::time::Duration;

use retort_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use retort_proto::pb;
use tonic::transport::Endpoint;

pub use backoff::Backoff;
pub use dialer::{BadAddress, Bearer, CannotDial, Channel, Dialer, Unreachable, connect, reach};
pub use files::{CHUNK, Error as FileError, FetchedFile, fetch, publish};
pub use reason::reason;
pub use refusals::Refusals;

/// Streams that a server lets one connection have at a time. A process has fewer than ten (control, a lease, transfers, soft
/// targets); this leaves room for a proxy that shares a connection. More wait until others end.
pub const MAX_STREAMS: u32 = 256;
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
    /// Certificates.
    join: join_client::JoinClient;
}

/// Models on a server of somebody else's.
pub fn inference(channel: Channel) -> GrpcInferenceServiceClient<Channel> {
    GrpcInferenceServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}
