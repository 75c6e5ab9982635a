//! The command line: checks jobs, starts local fleets, follows runs, and writes what they leave.
//!
//! It stands on every role's library but adds no protocol of its own: what it does to a run it
//! does over the same gRPC services that any client may use.

mod certs;
mod check;
mod cli;
mod collect;
mod compare;
mod control;
mod coordinator;
mod cost;
pub mod custom;
mod devices;
mod evaluate;
mod experiment;
mod export;
mod failure;
mod fleet;
mod follow;
mod health;
mod import;
mod init;
mod predict;
pub mod report;
mod run;
mod status;
mod submit;
#[cfg(feature = "top")]
mod top;

pub use cli::main;
pub use custom::Program;
