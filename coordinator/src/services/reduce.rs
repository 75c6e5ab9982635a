use bytes::{Bytes, BytesMut};
use retort_coordinator_core::ids::Session;
use retort_coordinator_core::round::Work;
use retort_proto::pb;
use retort_tls::Caller;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use crate::average::Hashed;
use crate::brain::Handle;
use crate::brain::entry::{Answered, Brought};
use crate::services::acts_as;

/// Bytes of one message of weights.
const CHUNK: usize = 1 << 20;
/// Largest model that is averaged here; beyond it a contribution is refused.
const MAX_WEIGHTS: usize = 4 << 30;

pub(crate) struct ReduceService {
    pub(crate) brain: Handle,
}

/// A state, with its hash; there seldom is one.
async fn hashed(state: Bytes) -> Result<Hashed, Status> {
    if state.is_empty() {
        return Ok(Hashed::default());
    }
    // As long as all its bytes: not on the runtime's own threads.
    tokio::task::spawn_blocking(|| state.into())
        .await
        .map_err(|e| Status::internal(e.to_string()))
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
        let caller = Caller::of(&request);
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|m| m.part);
        let Some(Part::Header(header)) = first else {
            return Err(Status::invalid_argument("the first message must be the header"));
        };
        let hash = header.state_hash.clone();
        let (session, work) = <(Session, Work)>::try_from(header)?;
        acts_as(caller.as_ref(), session.role)?;
        let (mut update, mut state) = (BytesMut::new(), BytesMut::new());
        while let Some(message) = parts.message().await? {
            let (to, chunk) = match message.part {
                Some(Part::Weights(chunk)) => (&mut update, chunk),
                Some(Part::State(chunk)) => (&mut state, chunk),
                _ => {
                    return Err(Status::invalid_argument(
                        "only weights and state may follow the header",
                    ));
                }
            };
            if to.len() + chunk.len() > MAX_WEIGHTS {
                return Err(Status::invalid_argument(format!(
                    "more than {MAX_WEIGHTS} bytes of weights"
                )));
            }
            to.extend_from_slice(&chunk);
        }
        let (reply, merged) = oneshot::channel();
        let brought = Brought {
            update: update.freeze(),
            state: hashed(state.freeze()).await?,
            hash,
        };
        self.brain
            .tell(move |brain| {
                let now = brain.now();
                let effect = match brain.entry(&session.run) {
                    Ok(entry) => entry.contribute((session, work), brought, now, reply),
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
        let Answered {
            plan,
            mut merging,
            is_state,
        } = merged.await.map_err(|_| gone())??;
        let merged = merging
            .wait_for(Option::is_some)
            .await
            .map_err(|_| gone())?
            .clone();
        let Hashed { bytes: weights, hash } = merged.ok_or_else(gone)??;
        let message = |part| Ok(pb::ContributeReply { part: Some(part) });
        let header = pb::Merged {
            plan: Some((&plan).into()),
            hash,
            bytes: weights.len() as u64,
        };
        let mut replies: Replies = vec![message(pb::contribute_reply::Part::Header(header))];
        for start in (0..weights.len()).step_by(CHUNK) {
            let chunk = weights.slice(start..weights.len().min(start + CHUNK));
            replies.push(message(if is_state {
                pb::contribute_reply::Part::State(chunk)
            } else {
                pb::contribute_reply::Part::Weights(chunk)
            }));
        }
        Ok(Response::new(tokio_stream::iter(replies)))
    }
}
