use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use retort_client::Dialer;
use retort_runtime::env;
use retort_runtime::logging::Format;
use retort_tls::{Role, Security, ServerFlags};

/// How long tasks may take to end after a stop was asked for.
pub(crate) const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Configuration of a student worker. The job reaches it at registration.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// The coordinator, http://host:port or, with --tls, https://host:port.
    #[arg(long, env = env::COORDINATOR)]
    pub coordinator: String,
    /// Address of the health service; port 0 lets the system choose.
    #[arg(long, env = env::LISTEN, default_value = "0.0.0.0:7320")]
    pub listen: SocketAddr,
    /// Name in the fleet; made from host and process id unless given.
    #[arg(long, env = env::NAME)]
    pub name: Option<String>,
    /// Folder that relative data set paths of a job start from.
    #[arg(long, env = "RETORT_DATASET__BASE", default_value = ".")]
    pub base: PathBuf,
    /// Leave once the run that was worked for has ended, instead of waiting for another.
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    pub protection: ServerFlags,
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
    /// How this process protects itself; to be asked before a port opens.
    ///
    /// # Errors
    ///
    /// If it would not, its credentials can't be used, or the coordinator's address does not fit them.
    pub fn security(&self) -> anyhow::Result<Security> {
        let security = self.protection.open(self.listen, Role::Student)?;
        Dialer::of(&security)
            .check(&self.coordinator)
            .context("--coordinator")?;
        Ok(security)
    }
}
