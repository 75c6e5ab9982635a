use std::time::Duration;

use retort_coordinator_core::ids::{Role, Session};
use retort_coordinator_core::run::{Heartbeat, Registration, Rejected};
use retort_proto::{PROTOCOL, pb, ranges_from, versions_from};
use retort_runtime::{OnError, TaskGroup};
use retort_tls::Caller;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use crate::brain::{CONTROL_QUEUE, Handle};
use crate::services::{acts_as, refusal, session_of};

/// Longest time a question is held open.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Longest name of a worker.
const MAX_NAME: usize = 128;

pub(crate) struct FleetService {
    pub(crate) brain: Handle,
    pub(crate) tasks: TaskGroup,
}

fn wait(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms)).min(MAX_WAIT)
}

fn role(number: i32) -> Result<Role, Status> {
    let role = pb::Role::try_from(number).map_err(|e| Status::invalid_argument(format!("role: {e}")))?;
    Ok(Role::try_from(role)?)
}

fn worker_name(name: &str) -> Result<(), Status> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Status::invalid_argument(format!(
            "worker has {} bytes: expected 1 to {MAX_NAME}",
            name.len()
        )));
    }
    Ok(())
}

#[tonic::async_trait]
impl pb::fleet_server::Fleet for FleetService {
    async fn next_run(
        &self,
        request: Request<pb::NextRunRequest>,
    ) -> Result<Response<pb::NextRunReply>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let role = role(request.role)?;
        acts_as(caller.as_ref(), role)?;
        worker_name(&request.worker)?;
        let worker = request.worker;
        let reply = self
            .brain
            .ask_until(wait(request.wait_ms), move |brain| {
                let term = brain.term;
                // Runs take turns: only the first that has not ended is offered.
                let entry = brain.runs.iter().find(|e| !e.run.state().0.ended())?;
                entry.run.wants(role, &worker).then(|| pb::NextRunReply {
                    run: entry.run.spec.id.clone(),
                    job_toml: entry.submission.job_toml.clone(),
                    seed: entry.submission.seed,
                    term,
                })
            })
            .await?;
        Ok(Response::new(reply.unwrap_or_default()))
    }

    async fn register(
        &self,
        request: Request<pb::RegisterRequest>,
    ) -> Result<Response<pb::RegisterReply>, Status> {
        let caller = Caller::of(&request);
        let r = request.into_inner();
        let role = role(r.role)?;
        acts_as(caller.as_ref(), role)?;
        worker_name(&r.worker)?;
        if r.protocol != PROTOCOL {
            return Err(Status::permission_denied(format!(
                "{} speaks protocol {}, this coordinator {PROTOCOL}: run the same release everywhere",
                r.worker, r.protocol
            )));
        }
        let registration = Registration {
            role,
            worker: r.worker,
            dataset_digest: r.dataset_digest,
            address: r.address,
            process: r.process,
            attempt: r.attempt,
            claim: r.claim.map(TryInto::try_into).transpose()?,
            floors: versions_from(r.floors),
        };
        let scheme = if caller.is_some() { "https://" } else { "http://" };
        if registration.role == Role::TeacherServer && !registration.address.starts_with(scheme) {
            return Err(Status::invalid_argument(format!(
                "address = {:?}: a teacher server names its own, like {scheme}10.0.0.7:7310",
                registration.address
            )));
        }
        let reply = self
            .brain
            .ask(move |brain| {
                let now = brain.now();
                let entry = brain.entry(&r.run)?;
                let admission = entry.run.register(registration, now).map_err(refusal)?;
                info!(
                    run = r.run,
                    worker = admission.session.worker,
                    part = admission.part,
                    "joined"
                );
                let mut reply = pb::RegisterReply::from(&admission);
                reply.lease_ttl_ms = u32::try_from(entry.run.spec.lease_ttl).unwrap_or(u32::MAX);
                reply.heartbeat_ms = u32::try_from(entry.run.spec.heartbeat).unwrap_or(u32::MAX);
                Ok::<_, Status>(reply)
            })
            .await??;
        Ok(Response::new(reply))
    }

    type ControlStream = ReceiverStream<Result<pb::ControlDown, Status>>;

    async fn control(
        &self,
        request: Request<Streaming<pb::ControlUp>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let caller = Caller::of(&request);
        let mut up = request.into_inner();
        let first = up
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("the stream is empty"))?;
        let (session, heartbeat) = <(Session, Heartbeat)>::try_from(first)?;
        acts_as(caller.as_ref(), session.role)?;
        let (down, stream) = mpsc::channel(CONTROL_QUEUE);
        let attached = session.clone();
        let mut from_brain = self
            .brain
            .ask(move |brain| {
                let now = brain.now();
                let entry = brain.entry(&attached.run)?;
                entry.run.heartbeat(&attached, heartbeat, now).map_err(refusal)?;
                Ok::<_, Status>(entry.attach(&attached, now))
            })
            .await??;
        let brain = self.brain.clone();
        let token = self.tasks.token().clone();
        self.tasks.spawn("control", OnError::Log, async move {
            loop {
                // Cancel-safe: both receivers keep what was not taken.
                let result = tokio::select! {
                    message = up.message() => match message {
                        Ok(Some(message)) => beat(&brain, message, caller.as_ref()).await,
                        Ok(None) | Err(_) => break,
                    },
                    command = from_brain.recv() => command.ok_or_else(|| Status::unavailable("resynchronise")),
                    () = token.cancelled() => break,
                };
                let failed = result.is_err();
                if down.send(result).await.is_err() || failed {
                    break;
                }
            }
            // Closed first: a newer stream of the same worker must stay.
            drop(from_brain);
            let _ = brain
                .peek(move |b| {
                    let now = b.now();
                    b.entry(&session.run).map(|e| e.detach(&session.worker, now))
                })
                .await;
            Ok(())
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn lease(&self, request: Request<pb::LeaseRequest>) -> Result<Response<pb::LeaseReply>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let session = session_of(caller.as_ref(), request.session)?;
        if request.sequence == 0 {
            return Err(Status::invalid_argument(
                "sequence = 0: requests are numbered from 1",
            ));
        }
        let asked = (request.sequence, request.received);
        let held_open = u64::try_from(wait(request.wait_ms).as_millis()).unwrap_or(u64::MAX);
        let (reply, answer) = oneshot::channel();
        self.brain
            .tell(move |brain| {
                let now = brain.now();
                let times = (now, now.plus(held_open));
                let effect = match brain.entry(&session.run) {
                    Ok(entry) => entry.lease((session, asked), times, reply),
                    Err(status) => {
                        let _ = reply.send(Err(status));
                        None
                    }
                };
                if let Some(effect) = effect {
                    brain.effect(effect);
                }
            })
            .await?;
        // Its sender is dropped when another question of the same worker takes its place.
        let answer = answer
            .await
            .map_err(|_| Status::unavailable("asked again, or shutting down"))??;
        Ok(Response::new((&answer).into()))
    }

    async fn release(
        &self,
        request: Request<pb::ReleaseRequest>,
    ) -> Result<Response<pb::ReleaseReply>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let session = session_of(caller.as_ref(), request.session)?;
        let positions = ranges_from(&request.positions)?;
        self.brain
            .ask(move |brain| {
                let run = &mut brain.entry(&session.run)?.run;
                run.release(&session, request.number, (request.epoch, &positions))
                    .map_err(refusal)
            })
            .await??;
        Ok(Response::new(pb::ReleaseReply {}))
    }

    async fn reject(&self, request: Request<pb::RejectRequest>) -> Result<Response<pb::RejectReply>, Status> {
        let caller = Caller::of(&request);
        let r = request.into_inner();
        let session = session_of(caller.as_ref(), r.session)?;
        let rejected = Rejected {
            epoch: r.epoch,
            position: r.position,
            sample: r.sample,
            reason: r.reason,
        };
        self.brain
            .ask(move |brain| {
                let now = brain.now();
                brain
                    .entry(&session.run)?
                    .run
                    .reject(&session, &rejected, now)
                    .map_err(refusal)
            })
            .await??;
        Ok(Response::new(pb::RejectReply {}))
    }

    async fn leave(&self, request: Request<pb::LeaveRequest>) -> Result<Response<pb::LeaveReply>, Status> {
        let caller = Caller::of(&request);
        let session = session_of(caller.as_ref(), request.into_inner().session)?;
        self.brain
            .ask(move |brain| {
                let now = brain.now();
                brain
                    .entry(&session.run)?
                    .run
                    .leave(&session, now)
                    .map_err(refusal)
            })
            .await??;
        Ok(Response::new(pb::LeaveReply {}))
    }

    async fn fail(&self, request: Request<pb::FailRequest>) -> Result<Response<pb::FailReply>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let session = session_of(caller.as_ref(), request.session)?;
        self.brain
            .ask(move |brain| {
                let now = brain.now();
                brain
                    .entry(&session.run)?
                    .run
                    .fail(&session, &request.reason, now)
                    .map_err(refusal)
            })
            .await??;
        Ok(Response::new(pb::FailReply {}))
    }
}

async fn beat(
    brain: &Handle,
    message: pb::ControlUp,
    caller: Option<&Caller>,
) -> Result<pb::ControlDown, Status> {
    let (session, heartbeat) = <(Session, Heartbeat)>::try_from(message)?;
    acts_as(caller, session.role)?;
    brain
        .peek(move |brain| {
            let now = brain.now();
            brain
                .entry(&session.run)?
                .run
                .heartbeat(&session, heartbeat, now)
                .map_err(refusal)
        })
        .await??;
    Ok(pb::ControlDown {
        command: Some(pb::control_down::Command::Alive(pb::Alive {})),
    })
}
