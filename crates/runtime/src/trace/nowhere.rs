//! A build that sends no spans.

use tracing::Span;
use tracing_subscriber::layer::Identity;

/// Sends what is left when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Export;

/// Where the spans of a process go, and what sends the last ones.
pub(crate) fn collector(_service: Option<&str>) -> (Option<Identity>, Export) {
    (None, Export)
}

/// `traceparent` of a span; empty: it is not recorded.
pub fn context(_: &Span) -> String {
    String::new()
}

/// The span goes on a trace of another process.
pub fn set_parent(_: &Span, _traceparent: &str) {}
