use bytes::{Bytes, BytesMut};
use retort_coordinator_core::round::Evaluation;
use retort_proto::pb;
use retort_tls::{Caller, Role};
use tonic::{Request, Response, Status, Streaming};

use crate::brain::{Brain, Handle};
use crate::services::{refusal, session_of, store_error};
use crate::store::Error;

/// All files of a version together.
const MAX_BYTES: u64 = 16 << 30;

pub(crate) struct VersionsService {
    pub(crate) brain: Handle,
}

#[tonic::async_trait]
impl pb::versions_server::Versions for VersionsService {
    async fn publish(
        &self,
        request: Request<Streaming<pb::PublishRequest>>,
    ) -> Result<Response<pb::PublishReply>, Status> {
        use pb::publish_header::By;
        let caller = Caller::of(&request);
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|m| m.part);
        let Some(pb::publish_request::Part::Header(header)) = first else {
            return Err(Status::invalid_argument("the first message must be the header"));
        };
        let by = header
            .by
            .ok_or_else(|| Status::invalid_argument("by is required"))?;
        may_publish(caller.as_ref(), &by)?;
        self.expects(caller.as_ref(), &by).await?;
        let held_out = header.held_out.map(Evaluation::try_from).transpose()?;
        let files = receive(&mut parts, &header.files).await?;
        let (id, store) = self
            .brain
            .peek(|brain| (brain.upload_id(), brain.store.clone()))
            .await?;
        // Writing and syncing block: not on the runtime's own threads.
        let run = match &by {
            By::Round(round) => round.session.as_ref().map_or("", |session| &session.run),
            By::Teacher(t) => &t.run,
        };
        let run = run.to_owned();
        let staged = tokio::task::spawn_blocking(move || store.stage((&run, id), &files))
            .await
            .map_err(|e| Status::internal(e.to_string()))?;
        let version = match by {
            By::Round(round) => {
                let session = session_of(caller.as_ref(), round.session)?;
                let staged = match staged {
                    Ok(staged) => staged,
                    Err(e) if e.is_of_storage() => {
                        let refused = self.brain.ask(move |b| b.not_written(&session, &e)).await?;
                        return Err(refused);
                    }
                    Err(e) => return Err(store_error(e)),
                };
                let at = (session, round.generation, round.round);
                self.brain
                    .ask_for(move |b, reply| b.commit_round(at, staged, held_out, reply))
                    .await?
            }
            By::Teacher(t) => {
                let staged = staged.map_err(store_error)?;
                self.brain
                    .ask_for(move |b, reply| b.commit_provided((t.run, t.teacher), staged, held_out, reply))
                    .await?
            }
        };
        Ok(Response::new(pb::PublishReply { version }))
    }

    type FetchStream = tokio_stream::Iter<std::vec::IntoIter<Result<pb::FetchReply, Status>>>;

    async fn fetch(&self, request: Request<pb::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let r = request.into_inner();
        let (run, name) = (r.run.clone(), r.group.clone());
        let (store, run, group) = self
            .brain
            .peek(move |brain| brain.files_of(&run, &name))
            .await??;
        let read = move || store.read((&run, &group), r.version, &r.file);
        let (version, bytes, blake3) = tokio::task::spawn_blocking(read)
            .await
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(store_error)?;
        let chunk = retort_client::CHUNK;
        let mut replies: Vec<Result<pb::FetchReply, Status>> = (0..bytes.len())
            .step_by(chunk)
            .map(|start| {
                Ok(pb::FetchReply {
                    chunk: bytes.slice(start..bytes.len().min(start + chunk)),
                    version,
                    blake3: String::new(),
                })
            })
            .collect();
        replies.push(Ok(pb::FetchReply {
            chunk: Bytes::new(),
            version,
            blake3,
        }));
        Ok(Response::new(tokio_stream::iter(replies)))
    }

    async fn list(
        &self,
        request: Request<pb::ListVersionsRequest>,
    ) -> Result<Response<pb::ListVersionsReply>, Status> {
        let r = request.into_inner();
        let (store, run, group) = self
            .brain
            .peek(move |brain| brain.files_of(&r.run, &r.group))
            .await??;
        let list = move || {
            let info = |version| {
                let (bytes, _) = store.manifest(&run, &group, version)?;
                Ok(pb::VersionInfo {
                    version,
                    manifest_json: String::from_utf8_lossy(&bytes).into_owned(),
                })
            };
            let versions = store.versions(&run, &group)?;
            versions.into_iter().map(info).collect::<Result<Vec<_>, Error>>()
        };
        let versions = tokio::task::spawn_blocking(list)
            .await
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(store_error)?;
        Ok(Response::new(pb::ListVersionsReply { versions }))
    }
}

impl VersionsService {
    /// Refuses at once what would be refused once gigabytes of it are here.
    async fn expects(&self, caller: Option<&Caller>, by: &pb::publish_header::By) -> Result<(), Status> {
        use pb::publish_header::By;
        match by {
            By::Round(round) => {
                let session = session_of(caller, round.session.clone())?;
                let authorised = move |brain: &mut Brain| {
                    let run = &brain.entry(&session.run)?.run;
                    run.authorise(&session).map(|_| ()).map_err(refusal)
                };
                self.brain.peek(authorised).await?
            }
            By::Teacher(t) => {
                let (run, teacher) = (t.run.clone(), t.teacher.clone());
                self.brain
                    .peek(move |brain| brain.files_of(&run, &teacher).map(|_| ()))
                    .await?
            }
        }
    }
}

/// A student publishes its group's state, an operator brings a fixed teacher.
fn may_publish(caller: Option<&Caller>, by: &pb::publish_header::By) -> Result<(), Status> {
    use pb::publish_header::By;
    let (what, needed) = match by {
        By::Round(_) => ("a group's state", Role::Student),
        By::Teacher(_) => ("a fixed teacher", Role::Operator),
    };
    match caller {
        Some(caller) if caller.role != needed => Err(Status::permission_denied(format!(
            "publishing {what} needs the role {needed}; the caller is {}",
            caller.role
        ))),
        _ => Ok(()),
    }
}

/// Receives the announced files, each of exactly the announced size.
async fn receive(
    parts: &mut Streaming<pb::PublishRequest>,
    headers: &[pb::FileHeader],
) -> Result<Vec<(String, String, Bytes)>, Status> {
    let mut pending = BytesMut::new();
    let mut files = Vec::new();
    let all: u64 = headers.iter().fold(0, |sum, h| sum.saturating_add(h.bytes));
    if all > MAX_BYTES {
        return Err(Status::invalid_argument(format!(
            "files.bytes: {all} in {} files, at most {MAX_BYTES} together",
            headers.len()
        )));
    }
    for header in headers {
        let size = header.bytes as usize;
        while pending.len() < size {
            let part = parts.message().await?.and_then(|m| m.part);
            let Some(pb::publish_request::Part::Chunk(chunk)) = part else {
                return Err(Status::invalid_argument(format!(
                    "{} ends after {} of {size} bytes",
                    header.name,
                    pending.len()
                )));
            };
            pending.extend_from_slice(&chunk);
        }
        files.push((
            header.name.clone(),
            header.blake3.clone(),
            pending.split_to(size).freeze(),
        ));
    }
    if !pending.is_empty() || parts.message().await?.is_some() {
        return Err(Status::invalid_argument(
            "more bytes follow than the header announced",
        ));
    }
    Ok(files)
}
