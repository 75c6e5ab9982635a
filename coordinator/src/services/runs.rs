use std::path::Path;

use retort_coordinator_core::run::Run;
use retort_proto::pb;
use retort_tls::Caller;
use tonic::{Request, Response, Status};

use super::store_error;
use crate::brain::{Brain, Handle, Submission};
use crate::orders::{Order, give};
use crate::spec::{Data, run_spec};

/// Hexadecimal digits of a data set digest.
const DIGEST_DIGITS: usize = 64;

pub(crate) struct RunsService {
    pub(crate) brain: Handle,
}

#[tonic::async_trait]
impl pb::runs_server::Runs for RunsService {
    async fn submit(&self, request: Request<pb::SubmitRequest>) -> Result<Response<pb::SubmitReply>, Status> {
        let r = request.into_inner();
        let job = retort_job::parse(&r.job_toml, Path::new("job_toml"), &[])
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let hexadecimal = r.dataset_digest.bytes().all(|b| b.is_ascii_hexdigit());
        if r.dataset_digest.len() != DIGEST_DIGITS || !hexadecimal {
            return Err(Status::invalid_argument(
                "dataset_digest must have 64 hexadecimal digits",
            ));
        }
        if r.positions == 0 {
            return Err(Status::invalid_argument(
                "positions = 0: an epoch has at least one sample",
            ));
        }
        let safe = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !r.run.chars().all(safe) || r.run.starts_with('.') {
            return Err(Status::invalid_argument(format!(
                "run = {:?}: letters, digits, '-', '_', '.'",
                r.run
            )));
        }
        let run = self
            .brain
            .ask(move |brain| {
                let order = brain.runs.len() as u64;
                let id = if r.run.is_empty() {
                    format!("{}-{}", job.run.name, order + 1)
                } else {
                    r.run
                };
                let seed = if r.seed == 0 { job.run.seed } else { r.seed };
                if let Some(there) = brain.runs.iter().find(|e| e.run.spec.id == id) {
                    let there = &there.submission;
                    let same = (&there.job_toml, there.seed, &there.dataset_digest)
                        == (&r.job_toml, seed, &r.dataset_digest);
                    // Sent again by who did not hear the answer, or was started again.
                    return match same {
                        true => Ok(id),
                        false => Err(Status::already_exists(format!(
                            "run {id} exists, with another job"
                        ))),
                    };
                }
                let data = Data {
                    positions: r.positions,
                    digest: r.dataset_digest.clone(),
                };
                let run = Run::new(run_spec(id.clone(), &job, data), brain.term, brain.now());
                let submission = Submission {
                    order,
                    id: id.clone(),
                    name: job.run.name.clone(),
                    seed,
                    job_toml: r.job_toml,
                    positions: r.positions,
                    dataset_digest: r.dataset_digest,
                };
                brain.add_run(run, submission);
                Ok(id)
            })
            .await??;
        Ok(Response::new(pb::SubmitReply { run }))
    }

    async fn stop(&self, request: Request<pb::StopRequest>) -> Result<Response<pb::StopReply>, Status> {
        let (by, r) = (asker(&request), request.into_inner());
        let order = Order::Stop { reason: r.reason };
        give(&self.brain, r.run, by, order).await?;
        Ok(Response::new(pb::StopReply {}))
    }

    async fn pause(&self, request: Request<pb::PauseRequest>) -> Result<Response<pb::PauseReply>, Status> {
        let (by, r) = (asker(&request), request.into_inner());
        give(&self.brain, r.run, by, Order::Pause {}).await?;
        Ok(Response::new(pb::PauseReply {}))
    }

    async fn resume(&self, request: Request<pb::ResumeRequest>) -> Result<Response<pb::ResumeReply>, Status> {
        let (by, r) = (asker(&request), request.into_inner());
        give(&self.brain, r.run, by, Order::Resume {}).await?;
        Ok(Response::new(pb::ResumeReply {}))
    }

    async fn drain(&self, request: Request<pb::DrainRequest>) -> Result<Response<pb::DrainReply>, Status> {
        let (by, r) = (asker(&request), request.into_inner());
        let order = Order::Drain { worker: r.worker };
        give(&self.brain, r.run, by, order).await?;
        Ok(Response::new(pb::DrainReply {}))
    }

    async fn retune(&self, request: Request<pb::RetuneRequest>) -> Result<Response<pb::RetuneReply>, Status> {
        let (by, r) = (asker(&request), request.into_inner());
        let order = Order::Retune {
            alpha: r.alpha,
            temperature: r.temperature,
        };
        give(&self.brain, r.run, by, order).await?;
        Ok(Response::new(pb::RetuneReply {}))
    }

    async fn keep_report(
        &self,
        request: Request<pb::KeepReportRequest>,
    ) -> Result<Response<pb::KeepReportReply>, Status> {
        let pb::KeepReportRequest { run, html } = request.into_inner();
        let ended = move |brain: &mut Brain| {
            let store = brain.store.clone();
            let run = &brain.entry(&run)?.run;
            match run.state().0 {
                state if state.ended() => Ok((run.spec.id.clone(), store)),
                state => Err(Status::failed_precondition(format!(
                    "run {} is {}: a report is of one that has ended",
                    run.spec.id,
                    state.name()
                ))),
            }
        };
        let (run, store) = self.brain.peek(ended).await??;
        let id = run.clone();
        let kept = tokio::task::spawn_blocking(move || store.keep_report(&id, html.into())).await;
        kept.map_err(|e| Status::internal(e.to_string()))?
            .map_err(store_error)?;
        self.brain.ask(move |brain| brain.reported(&run)).await??;
        Ok(Response::new(pb::KeepReportReply {}))
    }
}

/// Who asks, for those who read what happened.
fn asker<T>(request: &Request<T>) -> String {
    match Caller::of(request) {
        Some(caller) => format!("an {}", caller.role),
        None => "somebody without credentials".to_owned(),
    }
}
