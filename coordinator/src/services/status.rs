use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use retort_proto::pb;
use tonic::{Request, Response, Status};

use crate::brain::Handle;
use crate::status::{LISTED, of_newest, of_run};
use crate::watchers::Watchers;

const DEFAULT_PER_S: f64 = 5.0;
const MAX_PER_S: f64 = 50.0;
/// Who wants less than a state an hour gets one.
const LONGEST_PAUSE_S: f64 = 3_600.0;

pub(crate) struct StatusService {
    pub(crate) brain: Handle,
    pub(crate) watchers: Watchers,
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
        request: Request<pb::ListRunsRequest>,
    ) -> Result<Response<pb::ListRunsReply>, Status> {
        let limit = match request.into_inner().limit {
            0 => LISTED,
            limit => limit as usize,
        };
        Ok(Response::new(of_newest(&self.brain, limit).await?))
    }

    type WatchRunStream = BoxStream<'static, Result<pb::RunStatus, Status>>;

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
        let pause = Duration::from_secs_f64((1.0 / per_s).min(LONGEST_PAUSE_S));
        let watcher = self.watchers.watch(r.run, pause, r.since_revision).await?;
        // A copy is made when it is sent: a slow reader holds none.
        let states = watcher.into_stream().map_ok(move |snapshot| match r.brief {
            true => snapshot.brief.clone(),
            false => snapshot.status.clone(),
        });
        Ok(Response::new(states.boxed()))
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
