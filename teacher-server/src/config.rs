use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use retort_runtime::env;
use retort_runtime::logging::Format;

/// How long open streams may take to end after a stop was asked for.
pub(crate) const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Configuration of a teacher server. The job reaches it at registration.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// The coordinator, http://host:port.
    #[arg(long, env = env::COORDINATOR)]
    pub coordinator: String,
    /// Address to listen on; port 0 lets the system choose.
    #[arg(long, env = env::LISTEN, default_value = "0.0.0.0:7310")]
    pub listen: SocketAddr,
    /// Where students reach this server, http://host:port; derived from --listen unless given.
    #[arg(long, env = env::ADVERTISE)]
    pub advertise: Option<String>,
    /// Name in the fleet; made from host and process id unless given.
    #[arg(long, env = env::NAME)]
    pub name: Option<String>,
    /// Folder that relative data set paths of a job start from.
    #[arg(long, env = "RETORT_DATASET__BASE", default_value = ".")]
    pub base: PathBuf,
    /// Largest number of samples of one forward pass.
    #[arg(long, env = "RETORT_TEACHER__MAX_BATCH_SAMPLES", default_value_t = 1024)]
    pub max_batch_samples: usize,
    /// Write the address listened on to this file once bound.
    #[arg(long, hide = true)]
    pub announce: Option<PathBuf>,
    /// Leave when standard input ends.
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
    #[arg(long, value_enum, default_value_t)]
    pub log_format: Format,
}
