//! What every role's process does the same way: logging, owned tasks, orderly shutdown.
//!
//! It must never know what a role does.

mod announce;
pub mod failpoint;
pub mod logging;
mod shutdown;
mod tasks;
pub mod trace;

pub use announce::{announce, listen, own_address};
pub use shutdown::{Shutdown, default_name};
pub use tasks::{OnError, TaskGroup};

/// A number that names this process among all that ever had its name, and counts from 1 how often it
/// was asked for.
pub fn registration_number() -> (u64, u64) {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static PROCESS: OnceLock<u64> = OnceLock::new();
    static ATTEMPT: AtomicU64 = AtomicU64::new(0);
    let process = *PROCESS.get_or_init(|| RandomState::new().hash_one(std::process::id()));
    (process, ATTEMPT.fetch_add(1, Ordering::Relaxed) + 1)
}

/// Does what may panic (a tensor library out of memory, damaged data); a panic is an error with its message. The caller
/// must not use again what `work` may have left half done.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        text.unwrap_or_else(|| "a panic without a message".to_owned())
    })
}

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
