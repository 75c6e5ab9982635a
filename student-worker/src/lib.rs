//! The student worker: trains any group (a student, a baseline, an online teacher).
//!
//! `membership` joins runs; `part` says what a replica trains; `replica` drives the worker's pure
//! machine between the coordinator (`session`, `rpc`), the teachers (`frames`) and the trainer
//! thread (`thread`), which makes one teacher of several (`mixture`). burn is named in [`trainer`] only.

mod config;
mod exchange;
mod frames;
mod membership;
mod mixture;
mod part;
mod replica;
mod rpc;
mod server;
mod session;
mod thread;
pub mod trainer;

pub use config::Config;
pub use server::run;
