//! Spans go to a collector by OTLP over gRPC. OpenTelemetry's own environment names it and says how: `OTEL_EXPORTER_OTLP_ENDPOINT`
//! (without it nothing is sent), `OTEL_TRACES_SAMPLER`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_BSP_*`.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Runtime;
use tracing::{Level, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use super::TARGET;

const TRACEPARENT: &str = "traceparent";
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// Sends what is left when it is dropped.
#[derive(Debug, Default)]
#[must_use]
pub struct Export {
    /// With the runtime that its connection lives on: the spans of the end are sent when a role's own is gone.
    provider: Option<(SdkTracerProvider, Runtime)>,
}

impl Drop for Export {
    fn drop(&mut self) {
        if let Some((provider, runtime)) = self.provider.take() {
            // The SDK logs what it could not send.
            let _ = provider.shutdown();
            runtime.shutdown_background();
        }
    }
}

/// Where the spans of a process go, and what sends the last ones.
#[expect(clippy::print_stderr, reason = "logging has not begun yet")]
pub(crate) fn collector<S>(service: Option<&str>) -> (Option<impl Layer<S> + use<S>>, Export)
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let named = ENDPOINTS
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty()));
    let Some(service) = service.filter(|_| named) else {
        return (None, Export::default());
    };
    match provider(service) {
        Ok((provider, runtime)) => {
            let spans = tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("retort"))
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_tracked_inactivity(false)
                .with_filter(Targets::new().with_target(TARGET, Level::DEBUG));
            let provider = Some((provider, runtime));
            (Some(spans), Export { provider })
        }
        Err(e) => {
            // A fleet does not stand still for want of its traces.
            eprintln!("{}: no traces: {e:#}", ENDPOINTS[1]);
            (None, Export::default())
        }
    }
}

fn provider(service: &str) -> anyhow::Result<(SdkTracerProvider, Runtime)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("traces")
        .enable_all()
        .build()?;
    let exporter = {
        let _in = runtime.enter();
        opentelemetry_otlp::SpanExporter::builder().with_tonic().build()?
    };
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(service.to_owned());
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build();
    Ok((provider, runtime))
}

/// `traceparent` of a span; empty: it is not recorded.
pub fn context(span: &Span) -> String {
    if span.is_disabled() {
        return String::new();
    }
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut headers);
    headers.remove(TRACEPARENT).unwrap_or_default()
}

/// The span goes on a trace of another process.
pub fn set_parent(span: &Span, traceparent: &str) {
    if span.is_disabled() || traceparent.is_empty() {
        return;
    }
    let headers = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    // A span that has begun already keeps its own trace.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&headers));
}
