//! Calls of a session to the coordinator: each retries while the coordinator is away and reports
//! a lost session as such.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use retort_client::{Backoff, Channel, Dialer};
use retort_coordinator_core::ids::Session;
use retort_coordinator_core::lease::Answer;
use retort_coordinator_core::round::{Claim, Evaluation, RoundPlan, Work};
use retort_proto::{Error, PROTOCOL, pb, ranges, required, versions};
use retort_runtime::registration_number;
use retort_student_worker_core::Admitted;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::exchange::{OUTER_FILE, Outgoing};
use crate::thread::{OPTIMIZER_FILE, Snapshot};

/// How long one question for work is held open.
const LEASE_WAIT_MS: u32 = 5_000;
/// How long a farewell may take: a coordinator whose journal can't be written answers nothing.
const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes of one message of weights.
const CHUNK: usize = 1 << 20;

/// A call ended for good.
#[derive(Debug, Clone)]
pub(crate) enum Failed {
    /// The session or its round is not valid any more: register again.
    Lost(String),
    /// A bug of either side; nothing to retry.
    Broken(String),
    /// The replica's state is not the group's: it starts over without it.
    Diverged(String),
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
        Code::OutOfRange => Ok(Failed::Diverged(status.message().to_owned())),
        _ => Ok(Failed::Broken(status.message().to_owned())),
    }
}

/// Control and data do not share a connection: a saturated one must not look like death.
#[derive(Debug, Clone)]
pub(crate) struct Channels {
    pub(crate) control: Channel,
    pub(crate) data: Channel,
    /// Makes the links to teacher servers.
    pub(crate) dialer: Dialer,
}

/// What registration gave.
pub(crate) struct Joined {
    pub(crate) part: String,
    pub(crate) lease: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) admitted: Admitted,
}

/// What became of a version.
pub(crate) enum Published {
    Version(u64),
    /// Training goes on; a later one is asked for.
    NotWritten(String),
}

/// What a process that registers says of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registration {
    claim: Option<pb::Claim>,
    floors: Vec<pb::TeacherVersion>,
}

pub(crate) fn registration(claim: Option<&Claim>, floors: &BTreeMap<String, u64>) -> Registration {
    Registration {
        claim: claim.map(Into::into),
        floors: versions(floors),
    }
}

/// Calls until there is an answer or nothing to hope for.
async fn retry<T, F: Future<Output = Result<T, Status>>>(
    session: &Session,
    call: impl Fn() -> F,
) -> Result<T, Failed> {
    let mut backoff = Backoff::new(seed(&session.worker, session.incarnation));
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

/// Spreads the retries of a fleet.
pub(crate) fn seed(worker: &str, incarnation: u64) -> u64 {
    let spread = |h: u64, b: u8| h.wrapping_mul(31).wrapping_add(b.into());
    worker.bytes().fold(incarnation.wrapping_add(7), spread)
}

/// Registers; waits while the coordinator is away, every part is taken or former replicas may still
/// come back. `Err`: this process is not wanted in the run. Also says when the granted request was
/// sent: the lease counts from there.
pub(crate) async fn register(
    channel: Channel,
    (run, worker, digest): (&str, &str, &str),
    registration: &Registration,
) -> Result<(Joined, Instant), String> {
    let request = || {
        let (process, attempt) = registration_number();
        pb::RegisterRequest {
            protocol: PROTOCOL,
            run: run.to_owned(),
            role: pb::Role::StudentWorker.into(),
            worker: worker.to_owned(),
            dataset_digest: digest.to_owned(),
            address: String::new(),
            claim: registration.claim.clone(),
            floors: registration.floors.clone(),
            process,
            attempt,
        }
    };
    let mut backoff = Backoff::new(seed(worker, 0));
    loop {
        let asked = Instant::now();
        match retort_client::fleet(channel.clone()).register(request()).await {
            Ok(reply) => {
                let joined = joined(reply.into_inner()).map_err(|e| e.to_string())?;
                return Ok((joined, asked));
            }
            Err(status) if judge(&status).is_ok() => return Err(status.message().to_owned()),
            Err(status) => {
                tracing::debug!("register: {}", status.message());
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

fn joined(reply: pb::RegisterReply) -> Result<Joined, Error> {
    let (start, plan) = required(reply.start, "start")?;
    Ok(Joined {
        part: reply.part,
        lease: Duration::from_millis(u64::from(reply.lease_ttl_ms.max(10))),
        heartbeat: Duration::from_millis(u64::from(reply.heartbeat_ms.max(10))),
        admitted: Admitted {
            session: required(reply.session, "session")?,
            start,
            plan,
            teachers: reply.teachers.into_iter().map(Into::into).collect(),
            poison: reply.poison.iter().map(|p| (p.epoch, p.position)).collect(),
        },
    })
}

pub(crate) async fn lease(
    channel: Channel,
    session: &Session,
    (sequence, received): (u64, u64),
) -> Result<Answer, Failed> {
    retry(session, || async {
        let request = pb::LeaseRequest {
            session: Some(session.into()),
            wait_ms: LEASE_WAIT_MS,
            sequence,
            received,
        };
        let reply = retort_client::fleet(channel.clone()).lease(request).await?;
        Ok(Answer::try_from(reply.into_inner())?)
    })
    .await
}

pub(crate) async fn release(
    channel: Channel,
    session: &Session,
    request: pb::ReleaseRequest,
) -> Result<(), Failed> {
    retry(session, || async {
        retort_client::fleet(channel.clone())
            .release(request.clone())
            .await?;
        Ok(())
    })
    .await
}

pub(crate) async fn reject(
    channel: Channel,
    session: &Session,
    request: pb::RejectRequest,
) -> Result<(), Failed> {
    retry(session, || async {
        retort_client::fleet(channel.clone())
            .reject(request.clone())
            .await?;
        Ok(())
    })
    .await
}

/// What a contribution is answered with, besides the next plan.
#[derive(Debug, Clone)]
pub(crate) enum Merge {
    /// The merge of the round's contributions; empty where nothing was exchanged.
    Update(Bytes),
    /// The state of the plan's round, handed over by another replica.
    State(Bytes),
}

impl Merge {
    pub(crate) fn bytes(&self) -> u64 {
        let (Self::Update(bytes) | Self::State(bytes)) = self;
        bytes.len() as u64
    }
}

/// Contributes and waits for the merge; what is sent is empty where nothing is exchanged.
pub(crate) async fn contribute(
    channel: Channel,
    session: &Session,
    (work, outgoing): (Work, &Outgoing),
) -> Result<(RoundPlan, Merge), Failed> {
    retry(session, || async {
        use pb::contribute_request::Part;
        let message = |part| pb::ContributeRequest { part: Some(part) };
        let header = pb::Contribution {
            state_hash: outgoing.hash.clone(),
            ..(session, &work).into()
        };
        let chunks = |bytes: &Bytes| {
            let bytes = bytes.clone();
            let starts = (0..bytes.len()).step_by(CHUNK);
            starts.map(move |start| bytes.slice(start..bytes.len().min(start + CHUNK)))
        };
        let mut parts = vec![message(Part::Header(header))];
        parts.extend(chunks(&outgoing.update).map(|chunk| message(Part::Weights(chunk))));
        parts.extend(chunks(&outgoing.state).map(|chunk| message(Part::State(chunk))));
        let mut client = retort_client::reduce(channel.clone());
        let mut replies = client.contribute(tokio_stream::iter(parts)).await?.into_inner();
        let first = replies.message().await?.and_then(|m| m.part);
        let Some(pb::contribute_reply::Part::Header(header)) = first else {
            return Err(Status::internal("the reply has no header"));
        };
        let mut merged = BytesMut::new();
        let mut is_state = false;
        while let Some(message) = replies.message().await? {
            use pb::contribute_reply::Part;
            if let Some(Part::Weights(chunk) | Part::State(chunk)) = &message.part {
                merged.extend_from_slice(chunk);
            }
            is_state |= matches!(message.part, Some(Part::State(_)));
        }
        let merged = merged.freeze();
        if !header.hash.is_empty() && blake3::hash(&merged).to_hex().as_str() != header.hash {
            return Err(Status::aborted("the merge arrived with another hash"));
        }
        let merge = if is_state {
            Merge::State(merged)
        } else {
            Merge::Update(merged)
        };
        Ok((required(header.plan, "plan")?, merge))
    })
    .await
}

/// Uploads the snapshot of a round's start as a version.
pub(crate) async fn publish(
    channel: Channel,
    session: &Session,
    (generation, round): (u64, u64),
    (held_out, snapshot): (Option<Evaluation>, Snapshot),
) -> Result<Published, Failed> {
    let by = pb::publish_header::By::Round(pb::PublishedRound {
        session: Some(session.into()),
        generation,
        round,
    });
    retry(session, || {
        let (by, files) = (by.clone(), snapshot.files.clone());
        let mut client = retort_client::versions(channel.clone());
        async move {
            match retort_client::publish(&mut client, by, held_out.map(Into::into), files).await {
                Ok(version) => Ok(Published::Version(version)),
                Err(status) if status.code() == Code::ResourceExhausted => {
                    Ok(Published::NotWritten(status.message().to_owned()))
                }
                Err(status) => Err(status),
            }
        }
    })
    .await
}

/// A version's files, as a trainer needs them.
pub(crate) struct State {
    pub(crate) weights: Option<Bytes>,
    pub(crate) optimizer: Bytes,
    pub(crate) outer: Option<Bytes>,
}

/// Fetches a version's weights (if asked for, with the outer momentum if there is one) and optimizer, for as long as the
/// coordinator is away.
pub(crate) async fn state(
    channel: Channel,
    at: (&str, &str),
    version: u64,
    (with_weights, with_outer): (bool, bool),
) -> Result<State, String> {
    let mut client = retort_client::versions(channel);
    let mut backoff = Backoff::new(version);
    loop {
        let fetched = async {
            let optimizer = retort_client::fetch(&mut client, at, Some(version), OPTIMIZER_FILE).await?;
            let weights = if with_weights {
                let file = "model.safetensors";
                Some(
                    retort_client::fetch(&mut client, at, Some(version), file)
                        .await?
                        .bytes,
                )
            } else {
                None
            };
            let outer = if with_weights && with_outer {
                let outer = retort_client::fetch(&mut client, at, Some(version), OUTER_FILE);
                Some(outer.await?.bytes)
            } else {
                None
            };
            Ok::<_, retort_client::FileError>(State {
                weights,
                optimizer: optimizer.bytes,
                outer,
            })
        };
        match fetched.await {
            Ok(state) => return Ok(state),
            Err(e) if e.is_final() => return Err(format!("fetch version {version}: {e}")),
            Err(e) => {
                tracing::warn!(version, "fetch: {e}");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// Who is not heard is missed when its lease ends.
pub(crate) async fn leave(channel: Channel, session: &Session) {
    let request = pb::LeaveRequest {
        session: Some(session.into()),
    };
    let _ = tokio::time::timeout(FAREWELL, retort_client::fleet(channel).leave(request)).await;
}

/// Whoever trains what this replica held finds the same reason.
pub(crate) async fn fail(channel: Channel, session: &Session, reason: String) {
    let request = pb::FailRequest {
        session: Some(session.into()),
        reason,
    };
    let _ = tokio::time::timeout(FAREWELL, retort_client::fleet(channel).fail(request)).await;
}

/// Ranges as they travel.
pub(crate) fn positions(set: &retort_data::ranges::RangeSet) -> Vec<pb::Positions> {
    ranges(set)
}
