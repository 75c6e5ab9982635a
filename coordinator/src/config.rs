use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use retort_runtime::env;
use retort_runtime::logging::Format;

/// How long open streams may take to end after a stop was asked for.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Configuration of the coordinator.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Address to listen on; port 0 lets the system choose.
    #[arg(long, env = env::LISTEN, default_value = "0.0.0.0:7300")]
    pub listen: SocketAddr,
    /// Folder for published versions and manifests.
    #[arg(long, env = "RETORT_COORDINATOR__DATA_DIR", default_value = "retort-data")]
    pub data_dir: PathBuf,
    /// Write the address listened on to this file once bound.
    #[arg(long, hide = true)]
    pub announce: Option<PathBuf>,
    /// Leave when standard input ends.
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
    #[arg(long, value_enum, default_value_t)]
    pub log_format: Format,
}

impl Config {
    pub(crate) fn shutdown_grace(&self) -> Duration {
        SHUTDOWN_GRACE
    }
}
