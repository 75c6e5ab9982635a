//! An ONNX model by tract, or by the user's ONNX Runtime.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use retort_job::Foreign;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::DimLike;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::ops::source::Source;
use tract_onnx::tract_hir::ops::unimpl::UnimplementedOp;

use super::Error;
#[cfg(feature = "onnxruntime")]
use super::runtime;
use crate::Spec;
use crate::foreign::{self, Adapter, Number, Ports};

/// A model that is ready to evaluate. A forward pass holds one sample (and zeros, where the file fixes a larger batch), so
/// that logits cannot depend on the company, whatever the operators do.
#[derive(Debug)]
pub(crate) struct Graph {
    adapter: Adapter,
    engine: Engine,
    /// Of a pass, the batch first: 1, unless the file fixes another.
    dims: Vec<usize>,
    parameters: usize,
}

#[derive(Debug)]
enum Engine {
    /// Threads share the passes.
    Tract(Arc<TypedSimplePlan>),
    #[cfg(feature = "onnxruntime")]
    Runtime(runtime::Session),
}

/// Inputs and outputs of a file.
pub fn ports(bytes: &[u8]) -> Result<Ports, Error> {
    let file = read(bytes)?;
    Ok(super::ports::ports(&file.graph.unwrap_or_default()))
}

fn read(bytes: &[u8]) -> Result<ModelProto, Error> {
    let file = onnx().proto_model_for_read(&mut &bytes[..]);
    let file = file.map_err(|e| Error::Format(format!("{e:#}")))?;
    // Any bytes may pass for an empty message.
    if file.graph.as_ref().is_none_or(|graph| graph.node.is_empty()) {
        return Err(Error::Format("it holds no graph".into()));
    }
    Ok(file)
}

impl Graph {
    /// A model of a file's bytes, by what the specification says of it.
    pub(crate) fn new(spec: &Spec, bytes: &[u8]) -> Result<Self, Error> {
        Self::by(library().as_deref(), spec, bytes)
    }

    /// The same by a library of ONNX Runtime, or by tract.
    pub(super) fn by(library: Option<&Path>, spec: &Spec, bytes: &[u8]) -> Result<Self, Error> {
        let onnx = spec.model.onnx.as_ref();
        let onnx = onnx.ok_or_else(|| Error::Prepare("nothing says how the file is used".into()))?;
        let file = read(bytes)?;
        let parameters = super::ports::parameters(file.graph.as_ref().unwrap_or(&Default::default()));
        // A file may hold what the library does not expect.
        let prepared = catch_unwind(AssertUnwindSafe(|| match library {
            #[cfg(feature = "onnxruntime")]
            Some(library) => {
                let (session, adapter) = runtime::prepare(library, spec, onnx, bytes)?;
                Ok((Engine::Runtime(session), adapter))
            }
            _ => {
                let (plan, adapter) = prepare(spec, onnx, &file)?;
                Ok((Engine::Tract(plan), adapter))
            }
        }));
        let (engine, adapter) =
            prepared.unwrap_or_else(|_| Err(Error::Prepare("the ONNX library panicked".into())))?;
        Ok(Self {
            dims: adapter.dims(adapter.batch().unwrap_or(1)),
            adapter,
            engine,
            parameters,
        })
    }

    pub(crate) fn spec(&self) -> &Spec {
        self.adapter.spec()
    }

    /// Numbers that its weights are.
    pub(crate) fn parameters(&self) -> usize {
        self.parameters
    }

    /// Logits of whole samples, row by row.
    pub(crate) fn logits(&self, inputs: &[f32]) -> Result<Vec<f32>, Error> {
        match &self.engine {
            Engine::Tract(plan) => self.by_tract(plan, inputs),
            #[cfg(feature = "onnxruntime")]
            Engine::Runtime(session) => self.by_runtime(session, inputs),
        }
    }

    #[cfg(feature = "onnxruntime")]
    fn by_runtime(&self, session: &runtime::Session, inputs: &[f32]) -> Result<Vec<f32>, Error> {
        let mut logits = Vec::new();
        for sample in inputs.chunks_exact(self.spec().input_len()) {
            let rows = session.run(&self.dims, &self.values(sample))?;
            self.adapter.read(&rows[..self.spec().classes], &mut logits)?;
        }
        Ok(logits)
    }

    fn by_tract(&self, plan: &Arc<TypedSimplePlan>, inputs: &[f32]) -> Result<Vec<f32>, Error> {
        let len = self.spec().input_len();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let part = (inputs.len() / len).div_ceil(threads).max(1);
        let parts = inputs.chunks(part * len);
        let parts: Vec<Result<Vec<f32>, Error>> = thread::scope(|scope| {
            let threads: Vec<_> = parts
                .map(|part| scope.spawn(|| self.serial(plan, part)))
                .collect();
            let ends = threads.into_iter().map(|thread| thread.join());
            ends.map(|end| end.unwrap_or_else(|_| Err(Error::Run("the ONNX library panicked".into()))))
                .collect()
        });
        Ok(parts.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
    }

    fn serial(&self, plan: &Arc<TypedSimplePlan>, inputs: &[f32]) -> Result<Vec<f32>, Error> {
        let failed = |e: TractError| Error::Run(format!("{e:#}"));
        let (len, classes) = (self.spec().input_len(), self.spec().classes);
        let mut state = plan.spawn().map_err(failed)?;
        let mut logits = Vec::with_capacity(inputs.len() / len * classes);
        for sample in inputs.chunks_exact(len) {
            let tensor = self.tensor(sample).map_err(failed)?;
            let outputs = state.run(tvec![tensor.into()]).map_err(failed)?;
            let output = outputs[0].cast_to::<f32>().map_err(failed)?;
            let plain = output.try_as_plain_ram().map_err(failed)?;
            let row = &plain.as_slice::<f32>().map_err(failed)?[..classes];
            self.adapter.read(row, &mut logits)?;
        }
        Ok(logits)
    }

    /// A sample as the model takes it, alone in its batch.
    fn values(&self, sample: &[f32]) -> Vec<f32> {
        let mut values = vec![0f32; self.dims.iter().product()];
        self.adapter.write(sample, &mut values[..sample.len()]);
        values
    }

    fn tensor(&self, sample: &[f32]) -> TractResult<Tensor> {
        let tensor = Tensor::from_shape(&self.dims, &self.values(sample))?;
        Ok(tensor.cast_to_dt(datum(self.adapter.number()))?.into_owned())
    }
}

/// The library of ONNX Runtime that the environment names, which only a build that could load it looks for.
fn library() -> Option<PathBuf> {
    #[cfg(feature = "onnxruntime")]
    return runtime::library();
    #[cfg(not(feature = "onnxruntime"))]
    None
}

/// The part of the file between input and output, with a fixed batch.
fn prepare(spec: &Spec, onnx: &Foreign, file: &ModelProto) -> Result<(Arc<TypedSimplePlan>, Adapter), Error> {
    let failed = |e: TractError| Error::Prepare(format!("{e:#}"));
    // What files say of inner and output shapes is often wrong, or names the batch in two ways.
    let library = tract_onnx::onnx()
        .with_ignore_value_info(true)
        .with_ignore_output_shapes(true);
    let parsed = library.parse(file, None).map_err(failed)?;
    let mut model = parsed.model;
    let input = find_input(&model, onnx)?;
    let output = parsed.outlets_by_name.get(&onnx.output);
    let output = *output.ok_or_else(|| Error::Name {
        key: "output",
        name: onnx.output.clone(),
        known: format!("a tensor of the file, such as its outputs {:?}", outputs(file)),
    })?;
    model.select_output_outlets(&[output]).map_err(failed)?;
    check_path(&model, onnx, input)?;
    model.set_input_outlets(&[input]).map_err(failed)?;
    let adapter = adapter(spec, onnx, model.outlet_fact(input).map_err(failed)?)?;
    let dims = adapter.dims(adapter.batch().unwrap_or(1));
    let fact = InferenceFact::dt_shape(datum(adapter.number()), &dims);
    let typed = model.with_input_fact(0, fact).and_then(|m| m.into_optimized());
    let typed = typed.map_err(failed)?;
    let gives = &typed.output_fact(0).map_err(failed)?.shape;
    let fits = gives.as_concrete().is_some_and(|gives| {
        gives.first() == dims.first() && gives[1..].iter().product::<usize>() == spec.classes
    });
    if !fits {
        let problem = foreign::Error::Classes {
            name: onnx.output.clone(),
            batch: dims[0].to_string(),
            found: format!("{gives:?}").replace(',', " x "),
            classes: spec.classes,
        };
        return Err(problem.into());
    }
    Ok((typed.into_runnable().map_err(failed)?, adapter))
}

fn outputs(file: &ModelProto) -> Vec<&str> {
    let graph = file.graph.iter();
    graph
        .flat_map(|graph| &graph.output)
        .map(|output| output.name.as_str())
        .collect()
}

fn find_input(model: &InferenceModel, onnx: &Foreign) -> Result<OutletId, Error> {
    let name = |outlet: &&OutletId| model.node(outlet.node).name.as_str();
    let inputs = model.inputs.iter();
    inputs
        .clone()
        .find(|outlet| name(outlet) == onnx.input)
        .copied()
        .ok_or_else(|| Error::Name {
            key: "input",
            name: onnx.input.clone(),
            known: format!("one of {:?}", inputs.map(|o| name(&o)).collect::<Vec<_>>()),
        })
}

/// What lies between input and output must be computable from that input.
fn check_path(model: &InferenceModel, onnx: &Foreign, input: OutletId) -> Result<(), Error> {
    let order = model.eval_order();
    let order = order.map_err(|e| Error::Prepare(format!("{e:#}")))?;
    let nodes = order.iter().map(|&id| model.node(id));
    let unknown = nodes.clone().filter(|node| node.op_is::<UnimplementedOp>());
    let mut unknown: Vec<String> = unknown
        .map(|node| node.op.name().replace("Unimplemented(", "").replace(')', ""))
        .collect();
    unknown.sort();
    unknown.dedup();
    if !unknown.is_empty() {
        return Err(Error::Operators(unknown.join(", ")));
    }
    let sources: Vec<_> = nodes.filter(|node| node.op_is::<Source>()).collect();
    if sources.len() == 1 && sources[0].id == input.node {
        return Ok(());
    }
    let mut needs: Vec<&str> = sources.iter().map(|node| node.name.as_str()).collect();
    needs.sort_unstable();
    Err(Error::Inputs {
        output: onnx.output.clone(),
        input: onnx.input.clone(),
        needs: format!("{needs:?}"),
    })
}

/// The input's types.
const NUMBERS: [Number; 4] = [Number::F32, Number::U8, Number::I32, Number::I64];

fn datum(number: Number) -> DatumType {
    match number {
        Number::F32 => f32::datum_type(),
        Number::U8 => u8::datum_type(),
        Number::I32 => i32::datum_type(),
        Number::I64 => i64::datum_type(),
    }
}

/// Checks what the file declares of its input against the samples.
fn adapter(spec: &Spec, onnx: &Foreign, declared: &InferenceFact) -> Result<Adapter, Error> {
    let number = declared.datum_type.concretize();
    let number = number.and_then(|number| NUMBERS.into_iter().find(|known| datum(*known) == number));
    let number = number.ok_or_else(|| foreign::Error::Input {
        name: onnx.input.clone(),
        found: format!("{declared:?}"),
        expected: "f32, u8, i32 or i64".into(),
    })?;
    let extents: Vec<Option<usize>> = declared
        .shape
        .dims()
        .map(|dim| dim.concretize().and_then(|dim| dim.to_usize().ok()))
        .collect();
    let known_rank = declared.shape.rank().concretize().is_some();
    let declared_extents = known_rank.then_some(extents.as_slice());
    Ok(Adapter::new(spec, onnx, number, declared_extents, || {
        format!("{declared:?}")
    })?)
}
