//! Telling a supervisor which port the system chose.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use tokio::net::TcpListener;

/// Binds before anything else starts, so that a port in use is an error of the start.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}"))
}

/// Writes the address atomically to `path`, once the listener is bound.
pub fn announce(path: &Path, address: &str) -> anyhow::Result<()> {
    let partial = path.with_extension("partial");
    let mut file =
        std::fs::File::create(&partial).with_context(|| format!("create {}", partial.display()))?;
    file.write_all(address.as_bytes()).context("write address")?;
    std::fs::rename(&partial, path).with_context(|| format!("rename to {}", path.display()))
}

/// Where others reach a listener: its address, or the host's name where it listens on all of them.
pub fn own_address(scheme: &str, listener: SocketAddr) -> String {
    if !listener.ip().is_unspecified() {
        return format!("{scheme}://{listener}");
    }
    let host = crate::shutdown::host_name();
    format!("{scheme}://{host}:{}", listener.port())
}
