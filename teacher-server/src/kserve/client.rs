//! Asking a server.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use retort_client::{Backoff, Channel, MAX_MESSAGE};
use retort_job::Kserve;
use retort_models::foreign::{Adapter, Remote, RemoteError};
use retort_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use retort_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use retort_proto::inference::{
    ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ServerLiveRequest,
};
use tokio::runtime::Runtime;
use tonic::{Code, Response, Status};

use super::answer::Expected;
use super::{Error, Metadata};

/// A request without an answer in this time has failed.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often a request is made before its server counts as away.
const TRIES: usize = 3;
/// Requests under way at once; more would wait at the server.
const IN_FLIGHT: usize = 4;
/// Bytes of the numbers of one request or answer: half of a message, so that names and shapes fit too.
const MOST_BYTES: usize = MAX_MESSAGE / 2;

/// What a server says of one of its models, in the version that was asked for or the only one there is.
pub fn inspect(endpoint: &str, model: &str, version: Option<&str>) -> Result<Metadata, Error> {
    let background = Background::new()?;
    let address = endpoint.to_owned();
    let (name, asked) = (model.to_owned(), version.unwrap_or_default().to_owned());
    let away = |reason: String| Error::Away {
        endpoint: endpoint.to_owned(),
        reason,
    };
    let answer = background.wait(async move { describe(&address, name, asked).await });
    let answer = answer.ok_or_else(|| away("the connection's task ended".into()))?;
    match answer {
        Ok(metadata) => Metadata::new(model, version, metadata),
        Err(Refusal::Address(e)) => Err(e.into()),
        Err(Refusal::Away(reason)) => Err(away(reason)),
        Err(Refusal::NotReady(reason)) => Err(Error::NotReady {
            endpoint: endpoint.to_owned(),
            model: model.to_owned(),
            reason,
        }),
    }
}

enum Refusal {
    Address(retort_client::BadAddress),
    Away(String),
    NotReady(String),
}

/// Live, ready, and what it takes and gives.
async fn describe(
    address: &str,
    name: String,
    version: String,
) -> Result<retort_proto::inference::ModelMetadataResponse, Refusal> {
    let channel = retort_client::reach(address).await.map_err(|e| match e {
        retort_client::Unreachable::Address(e) => Refusal::Address(e),
        retort_client::Unreachable::Nobody { source, .. } => {
            Refusal::Away(format!("{:#}", anyhow::Error::new(source)))
        }
        retort_client::Unreachable::Refused(reason) => Refusal::Away(reason),
    })?;
    let mut stub = retort_client::inference(channel);
    let live = timely(stub.server_live(ServerLiveRequest {})).await;
    let live = live.map_err(|status| Refusal::Away(said(&status)))?;
    if !live.live {
        return Err(Refusal::Away("the server says that it is not live".into()));
    }
    let not_ready = |status: Status| Refusal::NotReady(said(&status));
    let request = ModelReadyRequest {
        name: name.clone(),
        version: version.clone(),
    };
    if !timely(stub.model_ready(request)).await.map_err(not_ready)?.ready {
        let what = match version.as_str() {
            "" => "it".to_owned(),
            version => format!("its version {version:?}"),
        };
        let reason = format!("the server does not have {what}, or has not loaded it");
        return Err(Refusal::NotReady(reason));
    }
    let request = ModelMetadataRequest { name, version };
    timely(stub.model_metadata(request)).await.map_err(not_ready)
}

/// An answer in time.
async fn timely<T>(answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(DEADLINE, answer).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer within {DEADLINE:?}"
        ))),
    }
}

fn said(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// A thread for connections, so that whoever waits for an answer may be a runtime's thread or none.
#[derive(Debug)]
struct Background(Option<Runtime>);

impl Background {
    fn new() -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("kserve")
            .enable_all()
            .build();
        Ok(Self(Some(runtime.map_err(Error::Thread)?)))
    }

    /// Blocks until the work is done; `None`: it was given up.
    fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (send, receive) = mpsc::sync_channel(1);
        self.0.as_ref()?.spawn(async move {
            let _ = send.send(work.await); // who waits does so below
        });
        receive.recv().ok()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Waiting for it is not allowed on a runtime's thread.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A model on a server, ready to answer.
#[derive(Debug)]
pub(super) struct Client {
    background: Background,
    model: Arc<Model>,
}

#[derive(Debug)]
struct Model {
    stub: GrpcInferenceServiceClient<Channel>,
    kserve: Kserve,
    adapter: Adapter,
    /// Samples of one request, and whether it always holds as many.
    batch: usize,
    fixed: bool,
}

impl Client {
    /// The connection is made at the first request, and again whenever it broke.
    pub(super) fn new(kserve: &Kserve, adapter: &Adapter) -> Result<Self, Error> {
        let background = Background::new()?;
        let spec = adapter.spec();
        // No type of a number is longer than eight bytes.
        let bytes = spec.input_len().max(spec.classes) * size_of::<u64>();
        let most = MOST_BYTES / bytes;
        let batch = adapter.batch().unwrap_or((kserve.max_batch as usize).min(most));
        if batch == 0 || batch > most {
            let bytes = bytes * batch.max(1);
            return Err(Error::Size {
                bytes,
                most: MOST_BYTES,
            });
        }
        let channel = {
            let _entered = background.0.as_ref().map(Runtime::enter);
            retort_client::connect(&kserve.endpoint)?
        };
        let model = Model {
            stub: retort_client::inference(channel),
            kserve: kserve.clone(),
            adapter: adapter.clone(),
            batch,
            fixed: adapter.batch().is_some(),
        };
        Ok(Self {
            background,
            model: Arc::new(model),
        })
    }
}

impl Remote for Client {
    fn infer(&mut self, values: Vec<f32>, samples: usize) -> Result<Vec<f32>, RemoteError> {
        let model = self.model.clone();
        let answers = self.background.wait(async move {
            let len = values.len() / samples.max(1) * model.batch;
            let parts = values.chunks(len.max(1));
            let requests: Vec<_> = parts.map(|part| model.clone().ask(part.to_vec())).collect();
            stream::iter(requests).buffered(IN_FLIGHT).try_concat().await
        });
        answers.unwrap_or_else(|| Err(RemoteError::Away("the connection's task ended".into())))
    }
}

impl Model {
    /// One request, made again while the server is away.
    async fn ask(self: Arc<Self>, mut part: Vec<f32>) -> Result<Vec<f32>, RemoteError> {
        let len = self.adapter.spec().input_len();
        let wanted = part.len() / len;
        let rows = if self.fixed { self.batch } else { wanted };
        part.resize(rows * len, 0.0);
        let request = self.request(&part, rows);
        let expected = Expected {
            model: &self.kserve.model,
            version: &self.kserve.version,
            output: &self.kserve.ports.output,
            rows,
            classes: self.adapter.spec().classes,
        };
        let mut backoff = Backoff::new(rows as u64);
        let mut stub = self.stub.clone();
        let mut tries = 0;
        loop {
            tries += 1;
            let status = match timely(stub.model_infer(request.clone())).await {
                Ok(answer) => {
                    let numbers = expected.read(&answer);
                    let mut numbers = numbers.map_err(|reason| self.wrong(&reason))?;
                    numbers.truncate(wanted * expected.classes);
                    return Ok(numbers);
                }
                Err(status) => status,
            };
            if is_final(status.code()) {
                return Err(self.wrong(&said(&status)));
            }
            if tries == TRIES {
                return Err(RemoteError::Away(self.place(&said(&status))));
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    fn wrong(&self, reason: &str) -> RemoteError {
        RemoteError::Wrong(self.place(reason))
    }

    fn place(&self, reason: &str) -> String {
        format!("{} at {}: {reason}", self.kserve.model, self.kserve.endpoint)
    }

    fn request(&self, values: &[f32], rows: usize) -> ModelInferRequest {
        let number = self.adapter.number();
        let shape = self.adapter.dims(rows).into_iter();
        let input = InferInputTensor {
            name: self.kserve.ports.input.clone(),
            datatype: super::metadata::name(number).to_owned(),
            // Bounded by the size of a message.
            shape: shape.map(|n| i64::try_from(n).unwrap_or(i64::MAX)).collect(),
            ..Default::default()
        };
        let output = InferRequestedOutputTensor {
            name: self.kserve.ports.output.clone(),
            ..Default::default()
        };
        ModelInferRequest {
            model_name: self.kserve.model.clone(),
            model_version: self.kserve.version.clone(),
            inputs: vec![input],
            outputs: vec![output],
            raw_input_contents: vec![number.to_le_bytes(values).into()],
            ..Default::default()
        }
    }
}

/// Whether asking again is no use: the request is refused as such. A model that is not there may be on its way.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::OutOfRange
            | Code::FailedPrecondition
            | Code::Unimplemented
            | Code::PermissionDenied
            | Code::Unauthenticated
    )
}
