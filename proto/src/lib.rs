//! The wire: messages and services of `retort.v1`, and conversions from and to the domain's types; beside them those of
//! the Open Inference Protocol, which servers of models from elsewhere speak.
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
    pub mod retort {
        include!(concat!(env!("OUT_DIR"), "/retort.v1.rs"));
    }

    pub mod inference {
        include!(concat!(env!("OUT_DIR"), "/inference.rs"));
    }

    pub mod etcd {
        include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
    }
}

/// Generated messages and services.
pub use generated::retort as pb;

/// Those of etcd's API (v3).
pub use generated::etcd;
/// Those of the Open Inference Protocol (KServe v2).
pub use generated::inference;
