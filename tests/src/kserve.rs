//! A server of the Open Inference Protocol (KServe v2) with one model, under a test's control.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use retort_proto::inference::grpc_inference_service_server::{
    GrpcInferenceService, GrpcInferenceServiceServer,
};
use retort_proto::inference::model_infer_response::InferOutputTensor;
use retort_proto::inference::model_metadata_response::TensorMetadata;
use retort_proto::inference::*;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Most samples of one request.
pub const MOST: usize = 16;

/// What computes: a row of numbers for each sample, all of one request in one call.
pub type Compute = Arc<dyn Fn(&[f32]) -> Vec<f32> + Send + Sync>;

/// A model as the server shows it: input `x`, output `y`.
#[derive(Clone)]
pub struct Model {
    pub name: String,
    pub version: String,
    pub ready: bool,
    /// Of the input: FP32, INT32, INT64 or UINT8.
    pub datatype: String,
    /// Numbers of a sample and of an answer.
    pub sizes: [usize; 2],
    /// Answers with raw bytes, or with numbers in their field.
    pub raw: bool,
    pub compute: Compute,
}

/// Serves until it is dropped.
pub struct Kserve {
    /// `http://127.0.0.1:PORT`
    pub endpoint: String,
    address: SocketAddr,
    /// Samples answered so far.
    pub answered: Arc<AtomicU64>,
    runtime: Option<Runtime>,
}

impl Kserve {
    /// On a port that the system chooses.
    pub fn start(model: Model) -> anyhow::Result<Self> {
        let mut server = Self {
            endpoint: String::new(),
            address: ([127, 0, 0, 1], 0).into(),
            answered: Arc::default(),
            runtime: None,
        };
        server.serve(model)?;
        server.endpoint = format!("http://{}", server.address);
        Ok(server)
    }

    /// Breaks off every connection and listens no more.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        }
    }

    /// Listens on the same port, with this model from now on.
    pub fn serve(&mut self, model: Model) -> anyhow::Result<()> {
        self.stop();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime
            .block_on(TcpListener::bind(self.address))
            .context("bind")?;
        self.address = listener.local_addr()?;
        let answered = self.answered.clone();
        let service = GrpcInferenceServiceServer::new(Service { model, answered });
        let served = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener));
        runtime.spawn(served);
        self.runtime = Some(runtime);
        Ok(())
    }
}

impl Drop for Kserve {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Service {
    model: Model,
    answered: Arc<AtomicU64>,
}

impl Service {
    fn check(&self, name: &str, version: &str) -> Result<(), Status> {
        let known = version.is_empty() || version == self.model.version;
        if name == self.model.name && known {
            return Ok(());
        }
        Err(Status::not_found(format!(
            "no model {name:?}, version {version:?}"
        )))
    }

    /// The numbers of the only input.
    fn read(&self, request: &ModelInferRequest) -> Result<Vec<f32>, Status> {
        let invalid = |what: String| Err(Status::invalid_argument(what));
        let ([input], [raw]) = (request.inputs.as_slice(), request.raw_input_contents.as_slice()) else {
            return invalid("one input, raw".into());
        };
        let numbers: Vec<f32> = match self.model.datatype.as_str() {
            "FP32" => raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            "INT32" => raw
                .as_chunks()
                .0
                .iter()
                .map(|b| i32::from_le_bytes(*b) as f32)
                .collect(),
            "INT64" => raw
                .as_chunks()
                .0
                .iter()
                .map(|b| i64::from_le_bytes(*b) as f32)
                .collect(),
            "UINT8" => raw.iter().map(|b| f32::from(*b)).collect(),
            other => return invalid(format!("type {other}")),
        };
        let size = self.model.sizes[0];
        let samples = numbers.len() / size;
        let shape = [samples as i64, size as i64];
        if (input.name.as_str(), &input.datatype) != ("x", &self.model.datatype) || input.shape != shape {
            return invalid(format!("{} {} {:?}", input.name, input.datatype, input.shape));
        }
        if samples > MOST {
            return invalid(format!("batch-size must be <= {MOST}, found {samples}"));
        }
        Ok(numbers)
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: true }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = self.model.ready && self.check(&name, &version).is_ok();
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse::default()))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        self.check(&name, &version)?;
        let tensor = |name: &str, datatype: &str, size: usize| TensorMetadata {
            name: name.into(),
            datatype: datatype.into(),
            shape: vec![-1, size as i64],
        };
        let [input, output] = self.model.sizes;
        Ok(Response::new(ModelMetadataResponse {
            name,
            versions: vec![self.model.version.clone()],
            platform: "test".into(),
            inputs: vec![tensor("x", &self.model.datatype, input)],
            outputs: vec![tensor("y", "FP32", output)],
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let request = request.into_inner();
        // The version that there is answers, whichever was asked for, as some servers do.
        self.check(&request.model_name, "")?;
        let numbers = self.read(&request)?;
        let samples = numbers.len() / self.model.sizes[0];
        let answer = (self.model.compute)(&numbers);
        self.answered.fetch_add(samples as u64, Ordering::SeqCst);
        let shape = vec![samples as i64, (answer.len() / samples.max(1)) as i64];
        let (raw, typed) = if self.model.raw {
            let bytes: Vec<u8> = answer.iter().flat_map(|v| v.to_le_bytes()).collect();
            (vec![bytes.into()], None)
        } else {
            let contents = InferTensorContents {
                fp32_contents: answer,
                ..Default::default()
            };
            (Vec::new(), Some(contents))
        };
        Ok(Response::new(ModelInferResponse {
            model_name: self.model.name.clone(),
            model_version: self.model.version.clone(),
            outputs: vec![InferOutputTensor {
                name: "y".into(),
                datatype: "FP32".into(),
                shape,
                contents: typed,
                ..Default::default()
            }],
            raw_output_contents: raw,
            ..Default::default()
        }))
    }
}
