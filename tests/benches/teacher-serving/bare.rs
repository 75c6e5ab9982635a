//! What there is without Retort: a tonic service that sends ready messages, and a socket.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use retort_proto::pb;
use retort_proto::pb::distill_request::Part;
use retort_proto::pb::teacher_server::{Teacher, TeacherServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

/// Answers each want with the next of the frames; a reader of the group [`PUSH`] gets as many messages as it has
/// credit for without a want.
struct Bare {
    frames: Arc<[Bytes]>,
}

pub(crate) const PUSH: &str = "push";

type Answers = Pin<Box<dyn Stream<Item = Result<pb::SoftTargets, Status>> + Send>>;

#[tonic::async_trait]
impl Teacher for Bare {
    type DistillStream = Answers;

    async fn distill(
        &self,
        request: Request<Streaming<pb::DistillRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let mut wants = request.into_inner();
        let frames = self.frames.clone();
        let answer = move |id: u64| pb::SoftTargets {
            id,
            frame: frames[id as usize % frames.len()].clone(),
            ..Default::default()
        };
        let first = wants.message().await?.and_then(|m| m.part);
        if let Some(Part::Open(open)) = first
            && open.group == PUSH
        {
            let all = (0..open.credit_samples).map(move |id| Ok(answer(id)));
            return Ok(Response::new(Box::pin(tokio_stream::iter(all))));
        }
        let answers = wants.filter_map(move |message| match message {
            Ok(pb::DistillRequest {
                part: Some(Part::Want(want)),
            }) => Some(Ok(answer(want.id))),
            Ok(_) => None,
            Err(status) => Some(Err(status)),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn describe(&self, _: Request<pb::DescribeRequest>) -> Result<Response<pb::DescribeReply>, Status> {
        Ok(Response::new(pb::DescribeReply::default()))
    }
}

/// The same windows as the product's server.
pub(crate) fn router(frames: Arc<[Bytes]>) -> Router {
    tonic::transport::Server::builder()
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .add_service(TeacherServer::new(Bare { frames }).max_encoding_message_size(64 << 20))
}

/// Sends so many of the frames, again and again, to whoever connects.
pub(crate) async fn pour(listener: TcpListener, frames: Arc<[Bytes]>, count: u64) -> anyhow::Result<()> {
    let (mut socket, _) = listener.accept().await?;
    socket.set_nodelay(true)?;
    for frame in frames.iter().cycle().take(count as usize) {
        socket.write_all(frame).await?;
    }
    Ok(())
}

/// Reads to the end.
pub(crate) async fn drain(mut socket: TcpStream, buffer: usize) -> anyhow::Result<u64> {
    let mut buffer = vec![0; buffer];
    let mut bytes = 0;
    loop {
        match socket.read(&mut buffer).await? {
            0 => return Ok(bytes),
            n => bytes += n as u64,
        }
    }
}
