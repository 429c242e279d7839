"""Between `onnx.ModelProto` and `Module`, with the checks that give a clear error instead of a broken graph."""

from __future__ import annotations

import logging

import onnx
import onnx_ir as ir
from mopt.ir.bare import forget_inferable
from mopt.ir.contents import check_contents
from mopt.ir.errors import IRError, LoadError
from mopt.ir.module import Module
from mopt.ir.normalise import normalise
from mopt.ir.provenance import strip_proto
from mopt.ir.skeleton import replace_tensors
from mopt.ir.sparse import densify
from mopt.ir.wellformed import check_names, check_versions

_OWN_DOMAINS = ("", "ai.onnx")


def from_proto(proto: onnx.ModelProto, *, infer: bool = True) -> Module:
    """Turn a model proto into a module. The module takes over the proto's tensors: don't change it afterwards.

    The module is normalised (`mopt.ir.normalise`); sparse tensors become dense. Its notes say what was changed.

    Args:
        proto: the model.
        infer: infer types and shapes; False leaves what the proto says of them.

    Raises:
        LoadError: the model is invalid (names used twice, values that nothing produces, a cycle), made for a newer
            version of ONNX, or uses what can't be represented (map types).
    """
    check_contents(proto)
    check_versions(proto)
    notes = densify(proto)
    if proto.training_info:
        notes.append("training information was dropped")
    check_names(proto)
    module = Module(_deserialize(proto), tuple(notes))
    normalise(module)
    if infer:
        module.infer_shapes()
    return module


def to_proto(module: Module, *, provenance: bool = False) -> onnx.ModelProto:
    """Return a module as a proto that holds copies of all weights.

    Args:
        module: what to serialise.
        provenance: keep what the compiler knows: where nodes come from, and inferred types and shapes. Without it
            types are written only where they can't be inferred.

    Raises:
        IRError: it can't be serialised.
    """
    try:
        proto = ir.serde.serialize_model(_embedded(module).model)
    except ir.serde.SerdeError as error:
        raise IRError(f"the graph can't be written as ONNX: {root_cause(error)}") from error
    if not provenance:
        strip_proto(proto)
        forget_inferable(proto)
    return proto


def _embedded(module: Module) -> Module:
    """Return a module none of whose tensors is a reference to a file: onnx_ir would write the reference."""
    if not any(isinstance(weight.tensor, ir.ExternalTensor) for weight in module.weights()):
        return module
    copy = module.clone()
    replace_tensors(copy.model, _held)
    return copy


def _held(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)


def _deserialize(proto: onnx.ModelProto) -> ir.Model:
    # Names were checked above; what onnx_ir would log repeats it.
    logger = logging.getLogger("onnx_ir.serde")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return ir.serde.deserialize_model(proto)
    except (ir.serde.SerdeError, ValueError, TypeError, NotImplementedError, AssertionError) as error:
        raise LoadError(f"the model can't be represented: {root_cause(error)}") from error
    except RecursionError as error:
        raise LoadError("invalid model: graphs are nested too deeply") from error
    finally:
        logger.setLevel(level)


def root_cause(error: BaseException) -> str:
    """Return the first line of the error that started a chain of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
