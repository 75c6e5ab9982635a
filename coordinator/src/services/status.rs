use std::time::Duration;

use retort_proto::pb;
use retort_runtime::{OnError, TaskGroup};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::brain::Handle;
use crate::status::{has_ended, of_all, of_run};

/// States a watcher may lag behind; a slower one skips, since only the newest counts.
const WATCH_QUEUE: usize = 2;
const DEFAULT_PER_S: f64 = 5.0;
const MAX_PER_S: f64 = 50.0;

pub(crate) struct StatusService {
    pub(crate) brain: Handle,
    pub(crate) tasks: TaskGroup,
}

impl StatusService {
    async fn get(&self, run: String, curves: bool) -> Result<pb::RunStatus, Status> {
        of_run(&self.brain, run, curves).await
    }
}

#[tonic::async_trait]
impl pb::status_server::Status for StatusService {
    async fn get_run(&self, request: Request<pb::GetRunRequest>) -> Result<Response<pb::RunStatus>, Status> {
        let r = request.into_inner();
        Ok(Response::new(self.get(r.run, !r.without_curves).await?))
    }

    async fn list_runs(
        &self,
        _: Request<pb::ListRunsRequest>,
    ) -> Result<Response<pb::ListRunsReply>, Status> {
        let runs = of_all(&self.brain).await?;
        Ok(Response::new(pb::ListRunsReply { runs }))
    }

    type WatchRunStream = ReceiverStream<Result<pb::RunStatus, Status>>;

    async fn watch_run(
        &self,
        request: Request<pb::WatchRunRequest>,
    ) -> Result<Response<Self::WatchRunStream>, Status> {
        let r = request.into_inner();
        let per_s = if r.max_per_s == 0.0 {
            DEFAULT_PER_S
        } else {
            r.max_per_s
        };
        if !(per_s > 0.0 && per_s <= MAX_PER_S) {
            return Err(Status::invalid_argument(format!(
                "max_per_s = {per_s}: above 0, at most {MAX_PER_S}"
            )));
        }
        // The newest run is settled once, so that a watcher stays with it.
        let first = self.get(r.run, true).await?;
        let (states, stream) = mpsc::channel(WATCH_QUEUE);
        let (brain, run, mut seen) = (self.brain.clone(), first.run, r.since_revision);
        let mut changes = brain.changes();
        let token = self.tasks.token().clone();
        self.tasks.spawn("watch", OnError::Log, async move {
            loop {
                let state = of_run(&brain, run.clone(), true).await?;
                let ended = has_ended(&state);
                if state.revision > seen || ended {
                    seen = state.revision;
                    if states.send(Ok(state)).await.is_err() || ended {
                        return Ok(());
                    }
                }
                tokio::time::sleep(Duration::from_secs_f64(1.0 / per_s)).await;
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return Ok(()) },
                    () = states.closed() => return Ok(()),
                    () = token.cancelled() => return Ok(()),
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_teachers(
        &self,
        request: Request<pb::ListTeachersRequest>,
    ) -> Result<Response<pb::ListTeachersReply>, Status> {
        let status = self.get(request.into_inner().run, false).await?;
        Ok(Response::new(pb::ListTeachersReply {
            teachers: status.teachers,
        }))
    }

    async fn list_students(
        &self,
        request: Request<pb::ListStudentsRequest>,
    ) -> Result<Response<pb::ListStudentsReply>, Status> {
        let status = self.get(request.into_inner().run, false).await?;
        let students = status
            .groups
            .into_iter()
            .filter(|g| g.kind == "student")
            .collect();
        Ok(Response::new(pb::ListStudentsReply { students }))
    }
}
