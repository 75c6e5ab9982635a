//! The teacher server: holds versions of one model and answers with softened soft targets.
//!
//! It serves and never trains. A want travels through `service` (a stream's credit), `requests` (cache,
//! forward passes under way, queue), `batcher` (who is next), the `device` thread, and back as `targets`
//! (softened, encoded once for all who ask alike) past `unread` to its connection. `store` keeps what a
//! fixed teacher said; `session` keeps the place in the fleet, `loading` brings versions here. burn is named in
//! [`engine`] only; [`kserve`] asks teachers on servers of somebody else's.

mod batcher;
mod blocks;
mod cache;
mod config;
mod device;
pub mod engine;
pub mod kserve;
mod loading;
mod requests;
mod server;
mod service;
mod serving;
mod session;
mod store;
mod targets;
mod unread;

pub use blocks::Blocks;
pub use config::Config;
pub use engine::classifier;
pub use requests::Limits;
pub use server::{Standalone, run};
