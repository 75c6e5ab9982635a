//! Calls of a session to the coordinator: each retries while the coordinator is away and reports
//! a lost session as such.

use bytes::{Bytes, BytesMut};
use retort_client::Backoff;
use retort_coordinator_core::ids::Session;
use retort_coordinator_core::lease::Answer;
use retort_coordinator_core::round::{Evaluation, RoundPlan, Work};
use retort_proto::{pb, ranges, required};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::thread::Snapshot;

/// How long one question for work is held open.
const LEASE_WAIT_MS: u32 = 5_000;
/// Bytes of one message of weights.
const CHUNK: usize = 1 << 20;

/// A call ended for good.
#[derive(Debug, Clone)]
pub(crate) enum Failed {
    /// The session or its round is not valid any more: register again.
    Lost(String),
    /// A bug of either side; nothing to retry.
    Broken(String),
}

/// What a status means to a caller; `Err`: try again.
pub(crate) fn judge(status: &Status) -> Result<Failed, ()> {
    match status.code() {
        Code::FailedPrecondition | Code::Aborted | Code::NotFound => {
            Ok(Failed::Lost(status.message().to_owned()))
        }
        // The coordinator is away or busy.
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::ResourceExhausted | Code::DataLoss => {
            Err(())
        }
        _ => Ok(Failed::Broken(status.message().to_owned())),
    }
}

async fn retry<T, F: Future<Output = Result<T, Status>>>(
    seed: u64,
    call: impl Fn() -> F,
) -> Result<T, Failed> {
    let mut backoff = Backoff::new(seed);
    loop {
        match call().await {
            Ok(value) => return Ok(value),
            Err(status) => match judge(&status) {
                Ok(failed) => return Err(failed),
                Err(()) => tokio::time::sleep(backoff.next_delay()).await,
            },
        }
    }
}

pub(crate) async fn lease(channel: Channel, session: Session) -> Result<Answer, Failed> {
    retry(session.incarnation, || async {
        let request = pb::LeaseRequest {
            session: Some((&session).into()),
            wait_ms: LEASE_WAIT_MS,
        };
        let reply = retort_client::fleet(channel.clone()).lease(request).await?;
        Ok(Answer::try_from(reply.into_inner())?)
    })
    .await
}

pub(crate) async fn release(
    channel: Channel,
    session: Session,
    (epoch, positions): (u32, Vec<pb::Positions>),
) {
    let request = pb::ReleaseRequest {
        session: Some((&session).into()),
        epoch,
        positions,
    };
    // If it is lost, the positions return when the session ends.
    let _ = retort_client::fleet(channel).release(request).await;
}

/// Contributes and waits for the merged state; the weights are empty where none are exchanged.
pub(crate) async fn contribute(
    channel: Channel,
    session: Session,
    (work, weights): (Work, Bytes),
) -> Result<(RoundPlan, Bytes), Failed> {
    retry(session.incarnation, || async {
        use pb::contribute_request::Part;
        let message = |part| pb::ContributeRequest { part: Some(part) };
        let mut parts = vec![message(Part::Header((&session, &work).into()))];
        for start in (0..weights.len()).step_by(CHUNK) {
            parts.push(message(Part::Weights(
                weights.slice(start..weights.len().min(start + CHUNK)),
            )));
        }
        let mut client = retort_client::reduce(channel.clone());
        let mut replies = client.contribute(tokio_stream::iter(parts)).await?.into_inner();
        let first = replies.message().await?.and_then(|m| m.part);
        let Some(pb::contribute_reply::Part::Header(header)) = first else {
            return Err(Status::internal("the reply has no header"));
        };
        let mut merged = BytesMut::new();
        while let Some(message) = replies.message().await? {
            if let Some(pb::contribute_reply::Part::Weights(chunk)) = message.part {
                merged.extend_from_slice(&chunk);
            }
        }
        let merged = merged.freeze();
        if !header.hash.is_empty() && blake3::hash(&merged).to_hex().as_str() != header.hash {
            return Err(Status::aborted("merged weights arrived with another hash"));
        }
        Ok((required(header.plan, "plan")?, merged))
    })
    .await
}

/// Uploads the state at the start of the plan's round as a version.
pub(crate) async fn publish(
    channel: Channel,
    session: Session,
    plan: RoundPlan,
    (held_out, snapshot): (Option<Evaluation>, Snapshot),
) -> Result<u64, Failed> {
    let by = pb::publish_header::By::Round(pb::PublishedRound {
        session: Some((&session).into()),
        generation: plan.generation,
        round: plan.round,
    });
    retry(session.incarnation, || {
        let (by, files) = (by.clone(), snapshot.files.clone());
        let mut client = retort_client::versions(channel.clone());
        async move { retort_client::publish(&mut client, by, held_out.map(Into::into), files).await }
    })
    .await
}

pub(crate) async fn leave(channel: Channel, session: &Session) {
    let request = pb::LeaveRequest {
        session: Some(session.into()),
    };
    let _ = retort_client::fleet(channel).leave(request).await;
}

pub(crate) async fn fail(channel: Channel, session: &Session, reason: String) {
    let request = pb::FailRequest {
        session: Some(session.into()),
        reason,
    };
    let _ = retort_client::fleet(channel).fail(request).await;
}

/// Ranges as they travel.
pub(crate) fn positions(set: &retort_data::ranges::RangeSet) -> Vec<pb::Positions> {
    ranges(set)
}
