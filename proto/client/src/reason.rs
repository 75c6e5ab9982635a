use std::error::Error;

use tonic::Status;

/// What a status says, with the cause at its bottom where that says more.
pub fn reason(status: &Status) -> String {
    let mut cause = status.source();
    while let Some(deeper) = cause.and_then(Error::source) {
        cause = Some(deeper);
    }
    let said = status.message();
    let mut text = match cause.map(ToString::to_string) {
        Some(cause) if !said.contains(&cause) => format!("{said}: {cause}"),
        _ => said.to_owned(),
    };
    // What `retort_tls::Incoming` answers to plain text; nobody else speaks of security below the calls.
    if text.contains("security properties") {
        text.push_str(
            "; the server encrypts, and was called in plain text: https:// and --tls DIR say otherwise",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_said_once() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = Status::from_error(Box::new(tonic::ConnectError(refused.into())));
        assert_eq!(reason(&status), "connection refused");
        assert_eq!(reason(&Status::not_found("no run")), "no run");
        let plain = Status::permission_denied("security properties do not meet minimum requirements");
        assert!(reason(&plain).contains("--tls DIR"));
    }
}
