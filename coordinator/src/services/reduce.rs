use bytes::BytesMut;
use retort_coordinator_core::ids::Session;
use retort_coordinator_core::round::Work;
use retort_proto::pb;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use crate::brain::Handle;

/// Bytes of one message of weights.
const CHUNK: usize = 1 << 20;
/// Largest model that is averaged here; beyond it a contribution is refused.
const MAX_WEIGHTS: usize = 4 << 30;

pub(crate) struct ReduceService {
    pub(crate) brain: Handle,
}

type Replies = Vec<Result<pb::ContributeReply, Status>>;

#[tonic::async_trait]
impl pb::reduce_server::Reduce for ReduceService {
    type ContributeStream = tokio_stream::Iter<std::vec::IntoIter<Result<pb::ContributeReply, Status>>>;

    async fn contribute(
        &self,
        request: Request<Streaming<pb::ContributeRequest>>,
    ) -> Result<Response<Self::ContributeStream>, Status> {
        use pb::contribute_request::Part;
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|m| m.part);
        let Some(Part::Header(header)) = first else {
            return Err(Status::invalid_argument("the first message must be the header"));
        };
        let (session, work) = <(Session, Work)>::try_from(header)?;
        let mut weights = BytesMut::new();
        while let Some(message) = parts.message().await? {
            let Some(Part::Weights(chunk)) = message.part else {
                return Err(Status::invalid_argument("only weights may follow the header"));
            };
            if weights.len() + chunk.len() > MAX_WEIGHTS {
                return Err(Status::invalid_argument(format!(
                    "more than {MAX_WEIGHTS} bytes of weights"
                )));
            }
            weights.extend_from_slice(&chunk);
        }
        if !weights.len().is_multiple_of(4) {
            return Err(Status::invalid_argument(format!(
                "{} bytes of weights are no f32 values",
                weights.len()
            )));
        }
        let (reply, merged) = oneshot::channel();
        let weights = weights.freeze();
        self.brain
            .tell(move |brain| {
                let now = brain.now();
                let effect = match brain.entry(&session.run) {
                    Ok(entry) => entry.contribute((session, work), weights, now, reply),
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
        let gone = || Status::unavailable("the coordinator is shutting down");
        let (plan, mut merging) = merged.await.map_err(|_| gone())??;
        let merged = merging
            .wait_for(Option::is_some)
            .await
            .map_err(|_| gone())?
            .clone();
        let weights = merged.ok_or_else(gone)??;
        let message = |part| Ok(pb::ContributeReply { part: Some(part) });
        let header = pb::Merged {
            plan: Some((&plan).into()),
            hash: if weights.is_empty() {
                String::new()
            } else {
                blake3::hash(&weights).to_hex().to_string()
            },
            bytes: weights.len() as u64,
        };
        let mut replies: Replies = vec![message(pb::contribute_reply::Part::Header(header))];
        for start in (0..weights.len()).step_by(CHUNK) {
            let chunk = weights.slice(start..weights.len().min(start + CHUNK));
            replies.push(message(pb::contribute_reply::Part::Weights(chunk)));
        }
        Ok(Response::new(tokio_stream::iter(replies)))
    }
}
