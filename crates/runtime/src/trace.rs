//! The way of one block as spans: student, teacher server, device, student again.
//!
//! They are of one target, which goes to a collector by OTLP in builds with the feature `otel` whose environment names
//! one, and nowhere else: without a collector each span costs one comparison. Where one process asks another, the span goes along
//! as a [W3C `traceparent`](https://www.w3.org/TR/trace-context/#traceparent-header).

#[cfg(feature = "otel")]
#[path = "trace/export.rs"]
mod way;
#[cfg(not(feature = "otel"))]
#[path = "trace/nowhere.rs"]
mod way;

pub(crate) use way::collector;
pub use way::{Export, context, set_parent};

/// Target of all spans of blocks.
pub const TARGET: &str = "retort::block";

/// A span of a block's way with this parent, a `&Span`; without a recorded parent it begins a trace.
#[macro_export]
macro_rules! block_span {
    ($parent:expr, $name:literal $(, $($fields:tt)*)?) => {{
        let parent: &::tracing::Span = $parent;
        ::tracing::debug_span!(target: $crate::trace::TARGET, parent: parent, $name $(, $($fields)*)?)
    }};
}
