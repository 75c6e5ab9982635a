//! The teacher server: holds versions of one model and answers with softened soft targets.
//!
//! It serves and never trains. The device belongs to one thread (`device`); `session` keeps the
//! place in the fleet and loads versions; `service` answers students. burn is named in
//! [`engine`] only.

mod config;
mod device;
pub mod engine;
mod server;
mod service;
mod session;

pub use config::Config;
pub use server::run;
