//! What a file says of itself, by the names of the ONNX specification.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Extent;
use tract_onnx::pb::type_proto::Value;
use tract_onnx::pb::{GraphProto, ValueInfoProto};

use crate::foreign::{Port, Ports};

/// Types of initialisers that are shapes and indices rather than weights.
const NO_WEIGHTS: [DataType; 4] = [DataType::Int32, DataType::Int64, DataType::Bool, DataType::String];

pub(super) fn ports(graph: &GraphProto) -> Ports {
    let constant = |name: &str| graph.initializer.iter().any(|t| t.name == name);
    let inputs = graph.input.iter().filter(|input| !constant(&input.name));
    Ports {
        inputs: inputs.map(port).collect(),
        outputs: graph.output.iter().map(port).collect(),
    }
}

fn port(info: &ValueInfoProto) -> Port {
    let value = info.r#type.as_ref().and_then(|t| t.value.as_ref());
    let dims = value.and_then(|Value::TensorType(tensor)| Some(&tensor.shape.as_ref()?.dim));
    let extent = |value: &Option<Extent>| match value {
        Some(Extent::DimValue(n)) => usize::try_from(*n).ok().filter(|&n| n > 0),
        _ => None,
    };
    let dims = dims.into_iter().flatten();
    Port {
        name: info.name.clone(),
        shape: dims.map(|dim| extent(&dim.value)).collect(),
    }
}

/// Numbers that the file's weights are.
pub(super) fn parameters(graph: &GraphProto) -> usize {
    let weights = graph
        .initializer
        .iter()
        .filter(|tensor| NO_WEIGHTS.iter().all(|&t| t as i32 != tensor.data_type));
    let numbers = weights.map(|tensor| {
        let dims = tensor.dims.iter().map(|&n| usize::try_from(n).unwrap_or(0));
        dims.fold(1, usize::saturating_mul)
    });
    numbers.fold(0, usize::saturating_add)
}
