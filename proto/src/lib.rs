//! The wire: messages and services of `retort.v1`, and conversions from and to the domain's types.
//!
//! The `.proto` files are the manual. `pb` types stop at the edge of each service: receiving goes
//! through `TryFrom`, which names the field that is wrong; sending is an infallible `From`. This
//! crate must never hold logic or start a runtime.

mod convert;
mod error;
mod json;

pub use convert::{ranges, ranges_from, required, teacher_use, versions, versions_from};
pub use error::Error;
pub use json::run_status_json;

/// Version of the protocol between processes; registration refuses another one.
pub const PROTOCOL: u32 = 4;

/// All files and their comments, for reflection and for printing by field name.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/retort.bin"));

mod generated {
    #![allow(
        clippy::all,
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        rustdoc::all,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    include!(concat!(env!("OUT_DIR"), "/retort.v1.rs"));
}

/// Generated messages and services.
pub mod pb {
    pub use crate::generated::*;
}
