//! Orders from the dashboard: only in a fleet that asks nobody for credentials, and only on its own machine, where whoever
//! reaches this port reaches the other one as well. A page of another site that is open in the same browser must not give them, nor one whose
//! name leads to this machine.

use std::net::IpAddr;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tonic::Status;

use super::{Failed, Shared, json};
use crate::orders::{Order, give};

/// Whether the page may show buttons.
pub(super) async fn allowed(State(shared): State<Shared>) -> Response {
    json(format!("{{\"allowed\":{}}}", shared.takes_orders))
}

/// `POST` of an [`Order`] as JSON.
pub(super) async fn order(
    State(shared): State<Shared>,
    Path(run): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failed> {
    if !shared.takes_orders {
        let text =
            "this port only shows: retort control gives orders over gRPC, with an operator's certificate";
        return Err(Status::permission_denied(text).into());
    }
    if !own_page(&headers) {
        let text = "orders are taken from this port's own page only, opened by an address of this machine";
        return Err(Status::permission_denied(text).into());
    }
    let order: Order =
        serde_json::from_slice(&body).map_err(|e| Status::invalid_argument(format!("the order: {e}")))?;
    let by = "somebody at the dashboard".to_owned();
    give(&shared.brain, run, by, order).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The request is from a page that this port served under an address of this machine.
fn own_page(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let host = text(header::HOST);
    // A name that somebody else's server resolves to this machine is not one of this machine's.
    let here = host.parse::<Authority>().is_ok_and(|host| {
        let name = host.host().trim_matches(['[', ']']);
        name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    });
    // Browsers add it to every POST, and let no script choose it.
    let ours = text(header::ORIGIN) == format!("http://{host}");
    here && ours && text(header::CONTENT_TYPE) == "application/json"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(host: &str, origin: &str, kind: &str) -> bool {
        let pairs = [
            (header::HOST, host),
            (header::ORIGIN, origin),
            (header::CONTENT_TYPE, kind),
        ];
        own_page(
            &pairs
                .into_iter()
                .map(|(name, value)| (name, value.parse().unwrap()))
                .collect(),
        )
    }

    #[test]
    fn only_the_ports_own_page_gives_orders() {
        const JSON: &str = "application/json";
        for (host, origin, kind, expected) in [
            ("127.0.0.1:7380", "http://127.0.0.1:7380", JSON, true),
            ("localhost:7380", "http://localhost:7380", JSON, true),
            ("[::1]:7380", "http://[::1]:7380", JSON, true),
            ("127.0.0.1:7380", "http://127.0.0.1:8080", JSON, false),
            ("127.0.0.1:7380", "https://example.com", JSON, false),
            ("127.0.0.1:7380", "", JSON, false),
            ("127.0.0.1:7380", "null", JSON, false),
            // Rebound: the name was looked up again and leads here now.
            ("example.com:7380", "http://example.com:7380", JSON, false),
            (
                "127.0.0.1.example.com",
                "http://127.0.0.1.example.com",
                JSON,
                false,
            ),
            ("192.168.1.2:7380", "http://192.168.1.2:7380", JSON, false),
            // What a form may send without being asked.
            ("127.0.0.1:7380", "http://127.0.0.1:7380", "text/plain", false),
        ] {
            assert_eq!(of(host, origin, kind), expected, "{host} {origin} {kind}");
        }
    }

    #[test]
    fn an_order_is_json_without_anything_else() {
        let parse = |text: &str| serde_json::from_str::<Order>(text);
        assert_eq!(parse(r#"{"order":"pause"}"#).unwrap(), Order::Pause {});
        let retune = parse(r#"{"order":"retune","alpha":0.5,"temperature":null}"#).unwrap();
        assert_eq!(
            retune,
            Order::Retune {
                alpha: Some(0.5),
                temperature: None
            }
        );
        for wrong in [
            r#"{"order":"drain"}"#,
            r#"{"order":"burn"}"#,
            "[]",
            r#"{"order":"stop","reason":1}"#,
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
