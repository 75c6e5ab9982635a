//! What every role's process does the same way: logging, owned tasks, orderly shutdown.
//!
//! It must never know what a role does.

mod announce;
pub mod logging;
mod shutdown;
mod tasks;

pub use announce::{announce, listen, own_address};
pub use shutdown::{Shutdown, default_name};
pub use tasks::{OnError, TaskGroup};

/// Runs a role on a runtime of its own. Stuck blocking work does not hold up its end.
pub fn block_on<T>(role: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(role);
    runtime.shutdown_background();
    result
}

/// Environment names that several roles read.
pub mod env {
    /// Where the coordinator listens, for workers that are given no flag.
    pub const COORDINATOR: &str = "RETORT_FLEET__COORDINATOR";
    /// Name of this process in the fleet.
    pub const NAME: &str = "RETORT_FLEET__NAME";
    /// Address to listen on.
    pub const LISTEN: &str = "RETORT_FLEET__LISTEN";
    /// Address that others reach this process at, where it differs from the one listened on.
    pub const ADVERTISE: &str = "RETORT_FLEET__ADVERTISE";
}
