//! A collector of spans: what an OTLP receiver is told, kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// One span, as it came.
#[derive(Debug, Clone)]
pub struct Span {
    /// Whose it is.
    pub service: String,
    pub name: String,
    pub id: Vec<u8>,
    /// Empty: it began the trace.
    pub parent: Vec<u8>,
    /// Nanoseconds since 1970.
    pub began: u64,
    pub ended: u64,
    pub fields: BTreeMap<String, String>,
}

/// Spans by the trace that they are of.
pub type Traces = BTreeMap<Vec<u8>, Vec<Span>>;

/// Receives until it is dropped.
pub struct Collector {
    /// `http://127.0.0.1:PORT`
    pub endpoint: String,
    traces: Arc<Mutex<Traces>>,
    _runtime: Runtime,
}

impl Collector {
    /// On a port that the system chooses.
    pub fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let traces = Arc::<Mutex<Traces>>::default();
        let service = TraceServiceServer::new(Service(traces.clone()));
        let served = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener));
        runtime.spawn(served);
        Ok(Self {
            endpoint,
            traces,
            _runtime: runtime,
        })
    }

    /// What has come so far, each trace in the order of its begins.
    pub fn traces(&self) -> Traces {
        let mut traces = self.traces.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for spans in traces.values_mut() {
            spans.sort_by_key(|s| (s.began, s.name != "block"));
        }
        traces
    }
}

struct Service(Arc<Mutex<Traces>>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut traces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for of_process in request.into_inner().resource_spans {
            let resource = of_process.resource.unwrap_or_default();
            let service = fields(&resource.attributes)
                .remove("service.name")
                .unwrap_or_default();
            for span in of_process.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                traces.entry(span.trace_id).or_default().push(Span {
                    service: service.clone(),
                    name: span.name,
                    id: span.span_id,
                    parent: span.parent_span_id,
                    began: span.start_time_unix_nano,
                    ended: span.end_time_unix_nano,
                    fields: fields(&span.attributes),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn fields(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |field: &KeyValue| match field.value.as_ref().and_then(|v| v.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(value)) => value.to_string(),
        _ => String::new(),
    };
    attributes.iter().map(|f| (f.key.clone(), text(f))).collect()
}

/// A trace as a tree, with milliseconds from its begin.
pub fn tree(spans: &[Span]) -> String {
    fn branch(spans: &[Span], parent: &Span, depth: usize, zero: u64, out: &mut String) {
        use std::fmt::Write;
        let ms = |time: u64| time.saturating_sub(zero) as f64 / 1e6;
        let fields: Vec<String> = parent.fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let name = format!("{:indent$}{}", "", parent.name, indent = 2 * depth);
        let (began, ended) = (ms(parent.began), ms(parent.ended));
        let service = &parent.service;
        let _ = writeln!(
            out,
            "{name:<14}{began:>8.2}{ended:>9.2}  {service:<23}{}",
            fields.join(" ")
        );
        for child in spans.iter().filter(|s| s.parent == parent.id) {
            branch(spans, child, depth + 1, zero, out);
        }
    }
    let mut out = String::new();
    for root in spans.iter().filter(|s| s.parent.is_empty()) {
        branch(spans, root, 0, root.began, &mut out);
    }
    out
}
