use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use retort_client::Dialer;
use retort_runtime::env;
use retort_runtime::logging::Format;
use retort_tls::{Role, Security, ServerFlags};

use crate::requests::Limits;

/// How long students are still answered what they have asked for after a stop was asked for.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);
/// How long tasks may take to end after that.
pub(crate) const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Configuration of a teacher server. The job reaches it at registration.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// The coordinator, http://host:port or, with --tls, https://host:port.
    #[arg(long, env = env::COORDINATOR)]
    pub coordinator: String,
    /// Address to listen on; port 0 lets the system choose.
    #[arg(long, env = env::LISTEN, default_value = "0.0.0.0:7310")]
    pub listen: SocketAddr,
    /// Where students reach this server, http://host:port or https://host:port; derived from --listen unless given.
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
    /// How long a block may wait for others to fill its batch; a batch that holds something of every
    /// open stream does not wait.
    #[arg(long, env = "RETORT_TEACHER__MAX_QUEUE_DELAY", default_value = "0ms", value_parser = humantime::parse_duration)]
    pub max_queue_delay: Duration,
    /// Samples that may wait to be scored; wants beyond are told when to ask again.
    #[arg(long, env = "RETORT_TEACHER__MAX_QUEUED_SAMPLES", default_value_t = 65_536)]
    pub max_queued_samples: u64,
    /// MiB of scored blocks kept for students that have not read them yet; 0 keeps none.
    #[arg(long, env = "RETORT_TEACHER__CACHE_MIB", default_value_t = 256)]
    pub cache_mib: usize,
    /// MiB of frames that one reader may leave unread before nothing more is computed for it.
    #[arg(long, env = "RETORT_TEACHER__MAX_UNREAD_MIB", default_value_t = 64)]
    pub max_unread_mib: usize,
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
    /// If it would not, its credentials can't be used, or an address does not fit them.
    pub fn security(&self) -> anyhow::Result<Security> {
        let security = self.protection.open(self.listen, Role::Teacher)?;
        let dialer = Dialer::of(&security);
        dialer.check(&self.coordinator).context("--coordinator")?;
        if let Some(address) = &self.advertise {
            dialer.check(address).context("--advertise")?;
        }
        Ok(security)
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            batch_samples: self.max_batch_samples,
            queue_delay: self.max_queue_delay,
            queue_samples: self.max_queued_samples,
            cache_bytes: self.cache_mib << 20,
            unread_bytes: (self.max_unread_mib as u64) << 20,
        }
    }
}
