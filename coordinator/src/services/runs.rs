use std::path::Path;

use retort_coordinator_core::run::Run;
use retort_proto::pb;
use tonic::{Request, Response, Status};

use crate::brain::Handle;
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
                let id = if r.run.is_empty() {
                    format!("{}-{}", job.run.name, brain.runs.len() + 1)
                } else {
                    r.run
                };
                if brain.runs.iter().any(|e| e.run.spec.id == id) {
                    return Err(Status::already_exists(format!("run {id} exists")));
                }
                let data = Data {
                    positions: r.positions,
                    digest: r.dataset_digest,
                };
                let seed = if r.seed == 0 { job.run.seed } else { r.seed };
                let run = Run::new(run_spec(id.clone(), &job, data), brain.term, brain.now());
                brain.add_run(run, (job.run.name.clone(), r.job_toml, seed));
                Ok(id)
            })
            .await??;
        Ok(Response::new(pb::SubmitReply { run }))
    }

    async fn stop(&self, request: Request<pb::StopRequest>) -> Result<Response<pb::StopReply>, Status> {
        let r = request.into_inner();
        self.brain
            .ask(move |brain| {
                let now = brain.now();
                brain.entry(&r.run)?.run.stop(&r.reason, now);
                Ok::<_, Status>(())
            })
            .await??;
        Ok(Response::new(pb::StopReply {}))
    }
}
