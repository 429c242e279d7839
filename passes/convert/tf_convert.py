"""What Keras models and SavedModels share: a TensorFlow function goes through tf2onnx and is compared."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.passes.convert import interface
from mopt.passes.convert.sizes import Spec, example, find_sizes
from mopt.passes.convert.user_code import blamed
from mopt.passes.convert.worker import MODEL
from mopt.runtime.contract import SourceError
from mopt.values import TensorType

if TYPE_CHECKING:
    import numpy as np
    from mopt.ir.module import Module

    Arrays = dict[str, np.ndarray[Any, Any]]


def start(seed: int) -> None:
    """Seed and quieten TensorFlow; keep it off the GPU, all of whose memory it would take."""
    import tensorflow as tf

    tf.get_logger().setLevel(logging.ERROR)
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    tf.config.set_visible_devices([], "GPU")
    tf.keras.utils.set_random_seed(seed % 2**31)
    _order_sets_of_nodes()
    _teach_erfc()


def convert_function(
    what: str,
    call: Callable[..., Mapping[str, Any]],
    spec: Spec,
    *,
    outputs: Sequence[str],
    shapes: Sequence[Sequence[int | None]],
    sizes: Mapping[str, int],
    opset: int,
    folder: Path,
    parameters: Mapping[str, np.ndarray[Any, Any]],
    layers: Sequence[str],
    scratch: Path,
    seed: int,
    phase: Callable[[str], None],
) -> list[str]:
    """Convert a function of tensors to `scratch / MODEL` and return the notes.

    Args:
        what: what the recipe calls the model.
        call: takes a tensor per input, in the order of `spec`; returns tensors by output name.
        spec: the interface of the graph.
        outputs: names for the outputs, or none to keep those that `call` gives.
        shapes: shapes of the outputs as far as the framework guarantees them, in the order of `call`.
        folder: frames of files below it are the recipe author's.
        parameters: the weights by their own names.
        layers: names of layers, to stamp nodes with.

    Raises:
        SourceError: the model refuses the inputs, tf2onnx refuses the model, or the graph disagrees.
    """
    import tensorflow as tf
    import tf2onnx
    from mopt.ir import IRError, load, save
    from mopt.passes.convert import source_names
    from mopt.passes.convert.agreement import DisagreementError, agree, observe

    names: list[str] = []

    def run(feeds: Mapping[str, Any]) -> Arrays:
        described = ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in feeds.items())
        with blamed(f"`{what}`, called with {described},", folder):
            returned = call(*(tf.constant(feeds[name]) for name in spec))
        keys = list(outputs) or list(returned)
        if len(keys) != len(returned):
            have = ", ".join(f"`{key}`" for key in returned)
            raise SourceError(f"`outputs` names {len(keys)} outputs, but the model returns {len(returned)}: {have}")
        names[:] = keys
        return {key: value.numpy() for key, value in zip(keys, returned.values(), strict=True)}

    phase("running the model")
    traced, checks = find_sizes(spec, sizes, lambda at: _attempt(run, example(spec, at, seed)))
    signature = [
        tf.TensorSpec([dim if isinstance(dim, int) else None for dim in kind.dims], _dtype(kind), name=_scope(name))
        for name, kind in spec.items()
    ]
    started = time.perf_counter()
    phase("converting with tf2onnx")
    path = scratch / "tf2onnx.onnx"
    try:
        function = tf.function(lambda *tensors: tuple(call(*tensors).values()), input_signature=signature)
        concrete = function.get_concrete_function(*signature)
        captured = {inner.name: outer for outer, inner in concrete.graph.captures}
        tf2onnx.convert.from_function(function, input_signature=signature, opset=opset, output_path=str(path))
        module = load(path)
    except IRError as error:
        raise SourceError(f"`{what}`: tf2onnx wrote a file that can't be read: {error}") from error
    except Exception as error:  # tf2onnx raises anything, up to bare asserts
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0][:300] if lines else type(error).__name__
        raise SourceError(f"`{what}`: tf2onnx can't convert it: {type(error).__name__}: {reason}") from error
    seconds = time.perf_counter() - started
    phase("comparing the graph with TensorFlow")
    _settle_inputs(module, signature, spec, captured)
    source_names.tidy(module, parameters)
    source_names.stamp_keras(module, layers)
    source_names.name_weights(module, parameters, "/", {"weight": "kernel", "bias": "bias"})
    interface.drop_exporter_metadata(module)
    interface.set_input_types(module, spec)
    interface.rename_outputs(module, names)
    interface.refresh_shapes(module)
    observed = observe(lambda at: example(spec, at, seed), run, [dict(traced), *checks])
    interface.settle_output_shapes(module, observed, dict(zip(names, shapes, strict=False)))
    try:
        agreement = agree(module, run, checks, seed)
    except DisagreementError as error:
        raise SourceError(f"`{what}`: the converted graph does not agree with TensorFlow: {error}") from error
    save(module, scratch / MODEL, provenance=True)
    return [f"converted by tf2onnx in {seconds:.1f} s; {agreement}"]


def own_spec(shapes: Mapping[str, tuple[Sequence[int | None], str]]) -> Spec:
    """Make an interface of a model's own shapes: the batch is `N`, other open dimensions are `NAME_dimAXIS`."""
    return {
        name: TensorType(dtype, tuple(_dim(name, axis, size) for axis, size in enumerate(dims)))
        for name, (dims, dtype) in shapes.items()
    }


def word(dtype: Any) -> str:
    """Return the language's word for a TensorFlow dtype."""
    import numpy as np
    import tensorflow as tf
    from mopt.ir.dtypes import word as element_word
    from onnx_ir import DataType

    kind = tf.as_dtype(dtype)
    if kind == tf.string:
        raise SourceError("a model that takes strings can't become a graph of numbers")
    return element_word(DataType.from_numpy(np.dtype(kind.as_numpy_dtype)))


def check_spec(what: str, declared: Spec, own: Spec) -> Spec:
    """Return the declared interface, once it fits the model's own: same inputs, no wider than the model allows.

    Names that the model has are matched by name, others by position.

    Raises:
        SourceError: it does not fit; the message shows both.
    """
    if not declared:
        return own
    shown = "{" + ", ".join(f"{name}: {kind}" for name, kind in own.items()) + "}"
    if len(declared) != len(own):
        raise SourceError(f"`{what}` takes {len(own)} inputs, {shown}, but `inputs` gives {len(declared)}")
    pairs = [(name, name) for name in own] if set(declared) == set(own) else list(zip(declared, own, strict=True))
    for name, theirs in pairs:
        mine, kind = declared[name], own[theirs]
        if mine.dtype != kind.dtype:
            raise SourceError(f"`{what}`: input `{name}` is declared {mine}, but the model takes {kind}")
        if len(mine.dims) != len(kind.dims) or any(
            isinstance(want, int) and have != want for have, want in zip(mine.dims, kind.dims, strict=True)
        ):
            raise SourceError(f"`{what}`: input `{name}` is declared {mine}, but the model takes {kind}")
    return {name: declared[name] for name, _ in pairs}


def _order_sets_of_nodes() -> None:
    """Make tf2onnx deterministic: it walks sets of nodes, whose order follows their addresses in memory.

    Which of two equal nodes survives, and so the names in the graph, would differ from run to run.
    """
    from tf2onnx.graph import Node

    serial = itertools.count()

    def number(node: Any) -> int:
        return int(node.__dict__.setdefault("_mopt_serial", next(serial)))

    Node.__hash__ = number


def _teach_erfc() -> None:
    """Teach tf2onnx `Erfc`, which TensorFlow's exact GELU is made of and which tf2onnx passes on as it is."""
    import numpy as np
    from tf2onnx import utils
    from tf2onnx.handler import tf_op

    class Erfc:
        """1 - erf(x)."""

        @classmethod
        def version_9(cls, graph: Any, node: Any, **_: Any) -> None:
            dtype = graph.get_dtype(node.input[0])
            one = graph.make_const(utils.make_name("one"), np.ones((), utils.map_onnx_to_numpy_type(dtype)))
            erf = graph.make_node("Erf", [node.input[0]], dtypes=[dtype])
            shapes, dtypes = node.output_shapes, node.output_dtypes
            graph.remove_node(node.name)
            graph.make_node(
                "Sub", [one.output[0], erf.output[0]], outputs=node.output, name=node.name,
                shapes=shapes, dtypes=dtypes,
            )  # fmt: skip

    tf_op("Erfc")(Erfc)


def _attempt(run: Callable[[Mapping[str, Any]], Arrays], feeds: Mapping[str, Any]) -> None:
    run(feeds)


def _settle_inputs(module: Module, signature: Sequence[Any], spec: Spec, captured: Mapping[str, Any]) -> None:
    """Give the graph's inputs the declared names; make constants of those that stand for captured tensors.

    A SavedModel's signature closes over tensors that are no variables; tf2onnx leaves them as inputs without values.
    """
    import onnx_ir as ir

    graph = module.graph
    for value in list(graph.inputs):
        held = captured.get(str(value.name))
        if held is not None:
            graph.inputs.remove(value)
            value.const_value = ir.tensor(held.numpy(), name=value.name)
            graph.register_initializer(value)
    by_scope = {tensor.name: name for tensor, name in zip(signature, spec, strict=True)}
    names = []
    for value in graph.inputs:
        scope = str(value.name).partition(":")[0]
        names.append(by_scope.get(scope, str(value.name)))
    interface.rename_inputs(module, names)


def _scope(name: str) -> str:
    import re

    # TensorFlow takes no other signs in a name
    return re.sub(r"[^A-Za-z0-9_.]", "_", name) if name[:1].isalnum() else "x" + re.sub(r"[^A-Za-z0-9_.]", "_", name)


def _dtype(kind: TensorType) -> Any:
    import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy
    import tensorflow as tf
    from mopt.runtime.dtypes import numpy_dtype

    return tf.as_dtype(numpy_dtype(kind.dtype))


def _dim(name: str, axis: int, size: int | None) -> int | str:
    if size is not None:
        return int(size)
    return "N" if axis == 0 else f"{name}_dim{axis}"
