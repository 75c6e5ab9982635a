//! `retort health`: whether a role answers, for containers that have no other client.

use std::time::Duration;

use anyhow::Context;
use clap::Args as Arguments;
use retort_client::Dialer;
use retort_tls::{ClientFlags, Expected};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::failure::{Failure, block_on};

#[derive(Debug, Arguments)]
pub(crate) struct Args {
    /// The role's address, http://host:port or, with --tls, https://host:port.
    address: String,
    #[command(flatten)]
    tls: ClientFlags,
    /// How long it may take.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Print JSON, whatever the answer is.
    #[arg(long)]
    json: bool,
}

/// Fails unless `grpc.health.v1` says that the role serves.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn command(args: Args) -> Result<(), Failure> {
    block_on(async move {
        let answer = tokio::time::timeout(args.timeout, ask(&args)).await;
        let status =
            answer.with_context(|| format!("{} is silent for {:?}", args.address, args.timeout))??;
        if args.json {
            let (address, status) = (&args.address, status.as_str_name());
            println!(
                "{:#}",
                serde_json::json!({ "address": address, "status": status })
            );
        }
        match status {
            ServingStatus::Serving => Ok(()),
            other => Err(anyhow::anyhow!("{} is {}", args.address, other.as_str_name()).into()),
        }
    })
}

async fn ask(args: &Args) -> Result<ServingStatus, Failure> {
    let dialer = Dialer::open(&args.tls).map_err(Failure::input)?;
    let channel = dialer.reach(&args.address, Expected::Anyone).await?;
    let request = HealthCheckRequest::default();
    let answer = HealthClient::new(channel).check(request).await?;
    Ok(answer.into_inner().status())
}
