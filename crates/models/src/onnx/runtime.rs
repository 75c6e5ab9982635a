//! An ONNX model by ONNX Runtime, whose shared library the user has.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use ort::environment::Environment;
use ort::value::{DynTensor, Outlet, PrimitiveTensorElementType, Tensor, TensorElementType};
use retort_job::Foreign;

use super::Error;
use crate::Spec;
use crate::foreign::{self, Adapter, Number};

/// Names the shared library, as it does for other programs.
const LIBRARY: &str = "ORT_DYLIB_PATH";

/// A model that is ready to evaluate.
#[derive(Debug)]
pub(super) struct Session {
    /// The library wants it exclusively while it runs, and spreads a pass over the processor's threads itself, so that calls
    /// lose nothing by taking turns.
    session: Mutex<ort::session::Session>,
    number: Number,
    output: String,
}

/// What the environment names.
pub(super) fn library() -> Option<PathBuf> {
    let named = std::env::var_os(LIBRARY);
    named.filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// A process loads one library, once.
fn environment(library: &Path) -> Result<&'static Environment, Error> {
    static LOADED: OnceLock<Result<Environment, String>> = OnceLock::new();
    let load = || {
        let builder = ort::init_from(library).map_err(|e| e.to_string())?;
        builder
            .with_name("retort")
            .with_telemetry(false)
            .build()
            .map_err(|e| e.to_string())
    };
    let loaded = LOADED.get_or_init(load);
    loaded.as_ref().map_err(|reason| Error::Library {
        library: library.to_owned(),
        oldest: ort::MINOR_VERSION,
        reason: reason.clone(),
    })
}

/// The file's graph, whose every input and output must be what the card says.
pub(super) fn prepare(
    library: &Path,
    spec: &Spec,
    onnx: &Foreign,
    bytes: &[u8],
) -> Result<(Session, Adapter), Error> {
    let environment = environment(library)?;
    let failed = |e: ort::Error| Error::Prepare(format!("ONNX Runtime: {e}"));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let session = ort::session::Session::builder(environment)
        .and_then(|builder| Ok(builder.with_intra_threads(threads)?))
        // Others want the processor between two passes.
        .and_then(|builder| Ok(builder.with_intra_op_spinning(false)?))
        .and_then(|mut builder| builder.commit_from_memory(bytes))
        .map_err(failed)?;
    let name_only = |outlets: &[Outlet]| outlets.iter().map(|o| o.name().to_owned()).collect::<Vec<_>>();
    let (inputs, outputs) = (name_only(session.inputs()), name_only(session.outputs()));
    let input = session.inputs().iter().find(|input| input.name() == onnx.input);
    let input = input.ok_or_else(|| Error::Name {
        key: "input",
        name: onnx.input.clone(),
        known: format!("one of {inputs:?}"),
    })?;
    if inputs.len() > 1 {
        let reason = format!(
            "ONNX Runtime wants a value for all inputs of the file, {inputs:?}; tract for those that the output needs (unset \
             {LIBRARY})"
        );
        return Err(Error::Prepare(reason));
    }
    if !outputs.contains(&onnx.output) {
        return Err(Error::Name {
            key: "output",
            name: onnx.output.clone(),
            known: format!(
                "one of the file's outputs {outputs:?}: ONNX Runtime gives no inner tensors, tract does (unset {LIBRARY})"
            ),
        });
    }
    let adapter = adapter(spec, onnx, input)?;
    let session = Session {
        session: Mutex::new(session),
        number: adapter.number(),
        output: onnx.output.clone(),
    };
    let dims = adapter.dims(adapter.batch().unwrap_or(1));
    let given = session.pass(&dims, &vec![0.0; dims.iter().product()])?;
    let fits = given.0.first() == dims.first() && given.1.len() == dims[0] * spec.classes;
    if !fits {
        let extents: Vec<String> = given.0.iter().map(usize::to_string).collect();
        let problem = foreign::Error::Classes {
            name: onnx.output.clone(),
            batch: dims[0].to_string(),
            found: extents.join(" x "),
            classes: spec.classes,
        };
        return Err(problem.into());
    }
    Ok((session, adapter))
}

/// Checks what the file declares of its input against the samples.
fn adapter(spec: &Spec, onnx: &Foreign, input: &Outlet) -> Result<Adapter, Error> {
    let declared = input.dtype();
    let number = match declared.tensor_type() {
        Some(TensorElementType::Float32) => Number::F32,
        Some(TensorElementType::Uint8) => Number::U8,
        Some(TensorElementType::Int32) => Number::I32,
        Some(TensorElementType::Int64) => Number::I64,
        _ => {
            let problem = foreign::Error::Input {
                name: onnx.input.clone(),
                found: declared.to_string(),
                expected: "f32, u8, i32 or i64".into(),
            };
            return Err(problem.into());
        }
    };
    let shape = declared.tensor_shape();
    let extents: Vec<Option<usize>> = shape
        .into_iter()
        .flat_map(|shape| shape.iter())
        .map(|&extent| usize::try_from(extent).ok().filter(|&extent| extent > 0))
        .collect();
    // A file may leave even the number of dimensions open.
    let known = (!extents.is_empty()).then_some(extents.as_slice());
    Ok(Adapter::new(spec, onnx, number, known, || declared.to_string())?)
}

impl Session {
    /// The output's numbers for a pass of these extents.
    pub(super) fn run(&self, dims: &[usize], values: &[f32]) -> Result<Vec<f32>, Error> {
        Ok(self.pass(dims, values)?.1)
    }

    /// Extents and numbers of the output.
    fn pass(&self, dims: &[usize], values: &[f32]) -> Result<(Vec<usize>, Vec<f32>), Error> {
        let failed = |e: ort::Error| Error::Run(format!("ONNX Runtime: {e}"));
        let input = match self.number {
            Number::F32 => tensor(dims, values, |value| value),
            Number::U8 => tensor(dims, values, |value| value as u8),
            Number::I32 => tensor(dims, values, |value| value as i32),
            Number::I64 => tensor(dims, values, |value| value as i64),
        };
        let input = input.map_err(failed)?;
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = session.run(ort::inputs![input]).map_err(failed)?;
        let output = outputs.get(&self.output);
        let output = output.ok_or_else(|| Error::Run(format!("ONNX Runtime gave no {:?}", self.output)))?;
        let (shape, numbers) = output.try_extract_tensor::<f32>().map_err(failed)?;
        let extents = shape.iter().map(|&extent| usize::try_from(extent).unwrap_or(0));
        Ok((extents.collect(), numbers.to_vec()))
    }
}

fn tensor<T>(dims: &[usize], values: &[f32], number: impl Fn(f32) -> T) -> ort::Result<DynTensor>
where
    T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
{
    let values: Vec<T> = values.iter().map(|&value| number(value)).collect();
    Ok(Tensor::from_array((dims.to_vec(), values))?.upcast())
}
