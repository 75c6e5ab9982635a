//! The coordinator: gRPC services around the pure core, the store of published versions, and an HTTP
//! port for those who watch.
//!
//! One task owns all runs (`brain`); services ask it. It must never hold a model or a tensor:
//! weights pass through as bytes, averaged as plain f32.

mod average;
mod brain;
mod config;
mod http;
mod journal;
mod orders;
mod server;
mod services;
mod spec;
mod status;
mod store;
mod watchers;

pub use config::{Config, Versions};
pub use server::{Listeners, bind, run};
pub use store::checkpoint_dir;
