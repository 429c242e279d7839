"""Convert a SavedModel: load one signature, without the training state that today's TensorFlow can't restore."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.passes.convert import tf_convert
from mopt.runtime.contract import SourceError
from mopt.values import LocationError

if TYPE_CHECKING:
    from mopt.passes.convert.savedmodel_source import SavedModelSource


def convert_savedmodel(source: SavedModelSource, scratch: Path, seed: int, phase: Callable[[str], None]) -> list[str]:
    """Convert to `scratch / MODEL` and return the notes. Runs in the conversion process.

    Raises:
        SourceError: it can't be loaded or converted.
    """
    try:
        folder = source.folder.resolve()
    except LocationError as error:
        raise SourceError(str(error)) from error
    if not (folder / "saved_model.pb").is_file():
        raise SourceError(f"`{source.folder}` is no SavedModel: it holds no saved_model.pb")
    phase("importing tensorflow")
    tf_convert.start(seed)
    import tensorflow as tf

    phase("loading the model")
    try:
        restored = tf.saved_model.load(str(_without_optimizer(folder, scratch / "savedmodel")))
    except SourceError:
        raise
    except Exception as error:  # a damaged folder fails in any part of the loader
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SourceError(f"`{source.folder}` can't be loaded by TensorFlow: {text[:300]}") from error
    signatures = dict(restored.signatures)
    if source.signature not in signatures:
        close = difflib.get_close_matches(source.signature, signatures, n=1)
        have = ", ".join(f"`{name}`" for name in signatures) or "none at all"
        hint = f"did you mean `{close[0]}`?" if close else f"it has {have}"
        raise SourceError(f"`{source.folder}` has no signature `{source.signature}`; {hint}")
    function = signatures[source.signature]
    _, keywords = function.structured_input_signature
    own = tf_convert.own_spec(
        {name: (tuple(spec.shape), tf_convert.word(spec.dtype)) for name, spec in keywords.items()}
    )
    spec = tf_convert.check_spec(str(source.folder), source.inputs, own)
    theirs = list(spec) if set(spec) == set(own) else list(own)

    def call(*tensors: Any) -> Mapping[str, Any]:
        returned = function(**dict(zip(theirs, tensors, strict=True)))
        return {name: returned[name] for name in sorted(returned)}

    return tf_convert.convert_function(
        str(source.folder),
        call,
        spec,
        outputs=source.outputs,
        shapes=[_sizes(function.structured_outputs[name].shape) for name in sorted(function.structured_outputs)],
        sizes=source.sizes,
        opset=source.opset,
        folder=folder,
        parameters={str(v.name).partition(":")[0]: v.numpy() for v in function.variables},
        layers=(),
        scratch=scratch,
        seed=seed,
        phase=phase,
    )


def _sizes(shape: Any) -> list[int | None]:
    return [] if shape.rank is None else list(shape.as_list())


def _without_optimizer(folder: Path, copy: Path) -> Path:
    """Return a folder whose object graph names no optimiser slots.

    Keras 2 saved them; TensorFlow without Keras 2 stops at them (`'_UserObject' object has no attribute
    'add_slot'`), though inference needs none. The weights are linked, not copied.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString((folder / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise SourceError(f"{folder.name}/saved_model.pb is damaged: {error}") from error
    slots = 0
    for graph in proto.meta_graphs:
        for node in graph.object_graph_def.nodes:
            slots += len(node.slot_variables)
            del node.slot_variables[:]
    if not slots:
        return folder
    copy.mkdir()
    (copy / "saved_model.pb").write_bytes(proto.SerializeToString())
    for child in folder.resolve().iterdir():
        if child.name != "saved_model.pb":
            (copy / child.name).symlink_to(child)
    return copy
