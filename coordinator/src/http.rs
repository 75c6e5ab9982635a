//! The HTTP port: a dashboard for people, metrics for Prometheus, the status as JSON for the rest.
//!
//! It reads, by the snapshots that `Status.GetRun` takes. There is no authentication; so it takes orders only where nothing else
//! asks for any, on this machine ([`orders`]).

mod events;
mod metrics;
mod orders;
mod pages;

use std::time::Duration;

use anyhow::Context;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use retort_proto::{pb, run_status_json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::brain::{Brain, Handle};
use crate::status;
use crate::watchers::Watchers;

/// How long answers may take to end after a stop was asked for; a reader that does not read is left.
const GRACE: Duration = Duration::from_secs(1);

/// In every answer that does not say otherwise: nothing is kept (what is shown is live), and a page loads nothing from elsewhere.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
];

/// Of a page that somebody brought: it may look as it likes, and do nothing.
const SHOWN_ONLY: (HeaderName, &str) = (
    header::CONTENT_SECURITY_POLICY,
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'",
);

const NO_PAGE: &str =
    "no such page: there are /, /metrics, /api/runs, /api/runs/ID, /events?run=ID and /reports/ID\n";
/// Bytes of an order.
const MAX_ORDER: usize = 4 << 10;

#[derive(Clone)]
struct Shared {
    brain: Handle,
    watchers: Watchers,
    takes_orders: bool,
}

/// Serves until `token` is cancelled.
pub(crate) async fn serve(
    listener: TcpListener,
    (brain, watchers): (Handle, Watchers),
    takes_orders: bool,
    token: CancellationToken,
) -> anyhow::Result<()> {
    let shared = Shared {
        brain,
        watchers,
        takes_orders,
    };
    let router = pages::router()
        .route("/metrics", get(metrics))
        .route("/api/runs", get(runs))
        .route("/api/runs/{run}", get(run))
        .route("/api/runs/{run}/orders", post(orders::order))
        .route("/api/orders", get(orders::allowed))
        .route("/events", get(events))
        .route("/reports/{run}", get(report))
        .fallback(|| async { (StatusCode::NOT_FOUND, NO_PAGE) })
        .layer(axum::middleware::map_response(|answer: Response| async {
            with_headers(answer)
        }))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_ORDER))
        .with_state(shared);
    let served = axum::serve(listener, router).with_graceful_shutdown(token.clone().cancelled_owned());
    tokio::select! {
        result = served.into_future() => result.context("serve HTTP"),
        () = async { token.cancelled().await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}

async fn metrics(State(shared): State<Shared>) -> Result<Response, Failed> {
    let facts = metrics::Facts {
        fleet: status::of_fleet(&shared.brain).await?,
        watchers: shared.watchers.count(),
    };
    let text = off_the_runtime(move || metrics::exposition(&facts)).await?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn runs(State(shared): State<Shared>) -> Result<Response, Failed> {
    let list = status::of_newest(&shared.brain, status::LISTED).await?;
    let text = off_the_runtime(move || {
        let runs: Vec<String> = list.runs.iter().map(run_status_json).collect();
        format!("{{\"runs\":[{}],\"total\":{}}}", runs.join(","), list.total)
    });
    Ok(json(text.await?))
}

async fn run(State(shared): State<Shared>, Path(run): Path<String>) -> Result<Response, Failed> {
    let status: pb::RunStatus = status::of_run(&shared.brain, run, true).await?;
    Ok(json(off_the_runtime(move || run_status_json(&status)).await?))
}

/// As its submitter left it.
async fn report(State(shared): State<Shared>, Path(run): Path<String>) -> Result<Response, Failed> {
    let known = move |brain: &mut Brain| {
        let store = brain.store.clone();
        brain.entry(&run).map(|e| (e.submission.id.clone(), store))
    };
    let (run, store) = shared.brain.peek(known).await??;
    let id = run.clone();
    let page = off_the_runtime(move || store.report(&id)).await?;
    let page = page.map_err(|e| Status::internal(e.to_string()))?;
    let none = || {
        Status::not_found(format!(
            "run {run} has no report here: retort submit --out FOLDER makes one"
        ))
    };
    let page = page.ok_or_else(none)?;
    Ok((
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), SHOWN_ONLY],
        page,
    )
        .into_response())
}

/// `?run=ID`; the newest unless given.
async fn events(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Result<Response, Failed> {
    let query = query.unwrap_or_default();
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let run = pairs
        .find(|(key, _)| key == "run")
        .map(|(_, run)| run.into_owned());
    let run = run.unwrap_or_default();
    let watcher = shared.watchers.watch(run, events::PAUSE, 0).await?;
    let body = Body::from_stream(events::of(watcher));
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], body).into_response())
}

fn with_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        let header = response.headers_mut().entry(name);
        header.or_insert(HeaderValue::from_static(value));
    }
    response
}

fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// A long curve takes milliseconds to write down.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Status::internal(e.to_string()))
}

/// A refusal as HTTP has it.
struct Failed(Status);

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let code = match self.0.code() {
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::FailedPrecondition => StatusCode::CONFLICT,
            Code::Unavailable | Code::ResourceExhausted => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, format!("{}\n", self.0.message())).into_response()
    }
}
