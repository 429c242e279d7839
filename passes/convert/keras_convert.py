"""Convert a Keras model: load it safely, then hand its inference function to `tf_convert`."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.passes.convert import tf_convert
from mopt.passes.convert.keras_files import refuse_code
from mopt.passes.convert.user_code import blamed, call_factory, described, load_attribute
from mopt.runtime.contract import SourceError
from mopt.values import Location, LocationError, PythonRef

if TYPE_CHECKING:
    import numpy as np
    from mopt.passes.convert.keras_source import KerasSource
    from mopt.passes.convert.sizes import Spec


def convert_keras(source: KerasSource, scratch: Path, seed: int, phase: Callable[[str], None]) -> list[str]:
    """Convert to `scratch / MODEL` and return the notes. Runs in the conversion process.

    Raises:
        SourceError: it can't be loaded or converted.
    """
    phase("importing tensorflow")
    tf_convert.start(seed)
    loaded = load_keras(source, phase)
    return loaded.notes + tf_convert.convert_function(
        str(source.model),
        loaded.call,
        loaded.spec,
        outputs=source.outputs,
        shapes=_output_shapes(loaded.model),
        sizes=source.sizes,
        opset=source.opset,
        folder=loaded.folder,
        parameters=_parameters(loaded.model),
        layers=list(_layer_names(loaded.model)),
        scratch=scratch,
        seed=seed,
        phase=phase,
    )


@dataclass
class LoadedKeras:
    """A Keras model and how to call it: `call` takes tensors in the order of `spec`, and names what comes out."""

    model: Any
    spec: Spec
    call: Callable[..., Mapping[str, Any]]
    folder: Path
    notes: list[str]


def load_keras(source: KerasSource, phase: Callable[[str], None]) -> LoadedKeras:
    """Load the model a recipe names, with its weights.

    Raises:
        SourceError: it can't be loaded, or its weights or inputs don't fit.
    """
    reference = source.model
    phase("loading the model")
    notes: list[str] = []
    if isinstance(reference, PythonRef):
        model = _from_factory(reference, source, phase)
        folder = _located(reference.file).parent
    else:
        if source.args:
            raise SourceError(f"`{reference}` is a file of a model, so `args` has no factory to go to")
        path = _located(reference)
        model, folder = _from_file(path), path.parent
    if source.weights is not None:
        notes += _load_weights(model, _located(source.weights))
    own = _own_spec(model, source)
    spec = tf_convert.check_spec(str(reference), source.inputs, own)
    keys = list(own)

    def call(*tensors: Any) -> Mapping[str, Any]:
        by_name = dict(zip(spec, tensors, strict=True))
        ordered = [by_name[name] for name in (keys if set(keys) == set(spec) else spec)]
        return _named(model, _called(model, ordered))

    return LoadedKeras(model, spec, call, folder, notes)


def _from_factory(reference: PythonRef, source: KerasSource, phase: Callable[[str], None]) -> Any:
    import keras

    phase(f"running `{reference}`")
    factory = load_attribute(reference)
    if isinstance(factory, keras.Model):
        if source.args:
            raise SourceError(f"`{reference}` is a model already, so `args` has nothing to go to")
        model = factory
    else:
        model = call_factory(factory, reference, source.args)
    phase("loading the weights")
    if not isinstance(model, keras.Model):
        raise SourceError(f"`{reference}` returned {described(model)} instead of a keras.Model")
    if not model.built and source.inputs:
        from mopt.passes.convert.sizes import example

        # a subclassed model knows its shapes only after a call
        sizes = {
            name: source.sizes.get(name, 2)
            for kind in source.inputs.values()
            for name in kind.dims
            if isinstance(name, str)
        }
        with blamed(f"`{reference}`", _located(reference.file).parent):
            _called(model, list(example(source.inputs, sizes).values()))
    return model


def _from_file(path: Path) -> Any:
    import keras

    if path.is_dir():
        raise SourceError(f'{path.name} is a folder; for a SavedModel write savedmodel("{path.name}")')
    if path.suffix == ".py":
        raise SourceError(f'{path.name}: which of its names builds the model? Write "{path.name}:NAME"')
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise SourceError(f"{path.name} is no .keras file, or is damaged")
    refuse_code(path)
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file fails in any part of the loader
        text = str(error).strip() or type(error).__name__
        if "safe_mode" in text or "unsafe" in text.lower():
            raise SourceError(f"{path.name} holds code that loading would run: {text.splitlines()[0][:200]}") from error
        if "No model config found" in text:
            raise SourceError(
                f"{path.name} holds weights, not a model; name the factory that builds it: "
                f'keras("model.py:factory", weights="{path.name}")'
            ) from error
        if "custom object" in text or "Could not locate class" in text or "Unknown layer" in text:
            raise SourceError(
                f"{path.name} uses classes that Keras does not have ({text.splitlines()[0][:200]}); build the model by "
                'a factory ("file.py:factory") and load its weights'
            ) from error
        raise SourceError(f"{path.name} can't be loaded by Keras: {text.splitlines()[0][:300]}") from error


def _load_weights(model: Any, path: Path) -> list[str]:
    name = path.name
    try:
        if path.suffix == ".keras":
            other = _from_file(path)
            model.set_weights(other.get_weights())
        elif name.endswith(".weights.h5"):
            model.load_weights(path)
        elif path.suffix in (".h5", ".hdf5"):
            model.load_weights(path, by_name=False)
        else:
            raise SourceError(f"{name}: Keras weights are .weights.h5, .h5 or .keras files")
    except SourceError:
        raise
    except Exception as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        shapes = ", ".join(f"{weight.path} {list(weight.shape)}" for weight in model.weights[:6])
        raise SourceError(
            f"{name} does not fit the model: {text[:400]}\n  the model's first weights: {shapes}"
        ) from error
    return []


def _own_spec(model: Any, source: KerasSource) -> Spec:
    inputs = getattr(model, "inputs", None)
    if not inputs:
        if source.inputs:
            return source.inputs
        raise SourceError(f"`{source.model}` has no declared inputs (a subclassed model); give them by `inputs={{…}}`")
    names = [tensor.name.partition(":")[0] for tensor in inputs]
    if len(names) == 1 and (names[0].startswith(("input_layer", "keras_tensor"))):
        names = ["input"]
    return tf_convert.own_spec(
        {name: (tuple(tensor.shape), tf_convert.word(tensor.dtype)) for name, tensor in zip(names, inputs, strict=True)}
    )


def _called(model: Any, tensors: list[Any]) -> Any:
    """Call a model in inference mode with one tensor, or the structure of several that it was built with."""
    import keras

    structure = getattr(model, "_inputs_struct", None)
    given: Any = tensors
    if structure is not None:
        given = keras.tree.pack_sequence_as(structure, tensors)
    elif len(tensors) == 1:
        given = tensors[0]
    return model(given, training=False)


def _named(model: Any, returned: Any) -> dict[str, Any]:
    import keras

    flat = keras.tree.flatten(returned)
    if isinstance(returned, dict):
        return {str(key): returned[key] for key in sorted(returned, key=str)}
    if len(flat) == 1:
        return {"output": flat[0]}
    names = list(getattr(model, "output_names", None) or [])
    if len(names) != len(flat) or len(set(names)) != len(names):
        names = [f"output_{number}" for number in range(len(flat))]
    return dict(zip(names, flat, strict=True))


def _output_shapes(model: Any) -> list[tuple[int | None, ...]]:
    try:
        symbolic = model.output
    except (AttributeError, ValueError):  # a subclassed model has none
        return []
    return [tuple(tensor.shape) for tensor in _named(model, symbolic).values()]


def _parameters(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    import numpy as np

    named: dict[str, np.ndarray[Any, Any]] = {}
    prefix = f"{model.name}/"
    for weight in model.weights:
        named[str(weight.path).removeprefix(prefix)] = np.asarray(weight)
    return named


def _layer_names(model: Any) -> Iterator[str]:
    for layer in model._flatten_layers(include_self=False):
        yield layer.name


def _located(location: Location) -> Path:
    try:
        return location.resolve()
    except LocationError as error:
        raise SourceError(str(error)) from error
