"""From what a recipe names to a `torch.nn.Module` in evaluation mode, whose inputs are known."""

from __future__ import annotations

import contextlib
import inspect
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mopt.passes.convert.sizes import Spec
from mopt.passes.convert.state_dict import fit, load_pickled, read_state_dict
from mopt.passes.convert.user_code import call_factory, described, load_attribute
from mopt.runtime.contract import SourceError
from mopt.values import Location, LocationError, PythonRef, TensorType

if TYPE_CHECKING:
    from mopt.passes.convert.torch_source import TorchSource

Kind = Literal["module", "script", "exported"]


@dataclass
class Loaded:
    """A PyTorch model and how to call it.

    Attributes:
        module: what is called: an `nn.Module`, a `ScriptModule`, or the module of an exported program.
        kind: which of them; `program` is the exported program itself.
        spec: inputs in the order they are passed; by keyword where `by_name`.
        folder: the folder whose frames are the recipe author's.
    """

    module: Any
    kind: Kind
    spec: Spec
    by_name: bool
    folder: Path
    program: Any = None


def load_torch(source: TorchSource, phase: Callable[[str], None]) -> tuple[Loaded, list[str]]:
    """Load the model a recipe names.

    Raises:
        SourceError: it can't be loaded, or its weights don't fit.
    """
    reference = source.model
    notes: list[str] = []
    program = None
    if isinstance(reference, PythonRef):
        module = _from_factory(reference, source, phase)
        kind: Kind = "script" if _is_script(module) else "module"
        folder = located(reference.file).parent
    else:
        if source.args:
            raise SourceError(f"`{reference}` is a file of a model, so `args` has no factory to go to")
        path = located(reference)
        module, kind, program = _from_file(path)
        folder = path.parent
    if source.weights is not None:
        if kind == "exported":
            raise SourceError(f"`{reference}` is an exported program with weights of its own; drop `weights`")
        path = located(source.weights)
        tensors, notes = read_state_dict(path)
        notes += fit(module, tensors, path.name, source.ignore)
    module = _part(module, source.part) if source.part else module
    if kind == "exported":
        spec = dict(source.inputs) or _spec_of_program(program)
        return Loaded(module, kind, spec, False, folder, program), notes
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    spec, by_name = _call_order(module, dict(source.inputs), reference)
    return Loaded(module, kind, spec, by_name, folder), notes


def located(location: Location) -> Path:
    """Resolve a location.

    Raises:
        SourceError: nothing is there.
    """
    try:
        return location.resolve()
    except LocationError as error:
        raise SourceError(str(error)) from error


def _from_factory(reference: PythonRef, source: TorchSource, phase: Callable[[str], None]) -> Any:
    import torch

    phase(f"running `{reference}`")
    factory = load_attribute(reference)
    if isinstance(factory, torch.nn.Module):
        if source.args:
            raise SourceError(f"`{reference}` is a module already, so `args` has nothing to go to")
        module = factory
    else:
        module = call_factory(factory, reference, source.args)
    phase("loading the weights")
    if isinstance(module, type) and issubclass(module, torch.nn.Module):
        raise SourceError(f"`{reference}` returned {described(module)}; call it: `return {module.__name__}()`")
    if not isinstance(module, torch.nn.Module):
        raise SourceError(f"`{reference}` returned {described(module)} instead of a torch.nn.Module")
    return module


def _is_script(module: Any) -> bool:
    import torch

    return isinstance(module, torch.jit.ScriptModule)


def _from_file(path: Path) -> tuple[Any, Kind, Any]:
    import torch

    if path.suffix == ".py":
        raise SourceError(f'{path.name}: which of its names builds the model? Write "{path.name}:NAME"')
    if not zipfile.is_zipfile(path):
        if path.suffix == ".safetensors":
            raise SourceError(_weights_only(path))
        load_pickled(path)  # an old-style pickle: refused with the reason if it holds code
        raise SourceError(_weights_only(path))
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any("/code/" in name and name.endswith(".py") for name in names):
        try:
            return torch.jit.load(str(path), map_location="cpu"), "script", None
        except RuntimeError as error:
            raise SourceError(
                f"{path.name}: TorchScript can't load it: {str(error).strip().splitlines()[0]}"
            ) from error
    if path.suffix == ".pt2" or any(
        name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names
    ):
        try:
            with _tensors_only(path.name):
                program = torch.export.load(str(path))
        except SourceError:
            raise
        except Exception as error:
            raise SourceError(f"{path.name}: torch.export can't load it: {_first_line(error)}") from error
        return program.module(), "exported", program
    load_pickled(path)
    raise SourceError(_weights_only(path))


@contextlib.contextmanager
def _tensors_only(name: str) -> Iterator[None]:
    """Make every unpickling in `torch.export.load` a safe one.

    Its own code falls back to unrestricted pickles for example inputs, constants and custom objects. The process
    is ours alone, so the functions it calls are replaced while it runs.

    Raises:
        SourceError: something in the file is no tensor, and was not loaded.
    """
    import torch

    refused: list[str] = []

    def refuse(*_: Any, **__: Any) -> Any:
        refused.append("a custom object")
        raise pickle.UnpicklingError("not loaded: custom objects run code")

    def load_tensors(*arguments: Any, **options: Any) -> Any:
        try:
            return plain(*arguments, **{**options, "weights_only": True})
        except Exception as error:
            refused.append(_first_line(error))
            raise

    plain, script = torch.load, torch._C._pickle_load_obj
    loads, load = pickle.loads, pickle.load
    torch.load, torch._C._pickle_load_obj = load_tensors, refuse
    pickle.loads = pickle.load = refuse
    try:
        yield
    except Exception as error:
        if refused:
            raise SourceError(
                f"{name} carries pickled objects that are no tensors, which loading would run as code; export it again "
                f"without custom objects ({refused[0]})"
            ) from error
        raise
    finally:
        torch.load, torch._C._pickle_load_obj = plain, script
        pickle.loads, pickle.load = loads, load


def _weights_only(path: Path) -> str:
    return (
        f"{path.name} holds weights, not a model; name the factory that builds the module: "
        f'torch("model.py:Factory", weights="{path.name}", inputs=…)'
    )


def _part(module: Any, name: str) -> Any:
    import difflib

    parts = dict(module.named_modules())
    if name not in parts:
        close = difflib.get_close_matches(name, [key for key in parts if key], n=1)
        hint = f"; did you mean `{close[0]}`?" if close else ""
        raise SourceError(f"the model has no submodule `{name}`{hint}")
    return parts[name]


def _call_order(module: Any, inputs: dict[str, TensorType], reference: object) -> tuple[Spec, bool]:
    """Put inputs named like parameters of `forward` into its order; the others are taken in the order given."""
    signature = _signature(module)
    if not inputs:
        takes = f"; its forward takes {signature}" if signature is not None else ""
        raise SourceError(f"`{reference}`: a PyTorch model needs `inputs={{name: f32[N, …]}}`{takes}")
    if signature is None:
        return inputs, False
    parameters = signature.parameters
    if set(inputs) <= set(parameters):
        ordered = {name: inputs[name] for name in parameters if name in inputs}
        # by position where no parameter is skipped: TorchScript's exporter miscounts keyword arguments
        return ordered, list(ordered) != list(parameters)[: len(ordered)]
    required = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(inputs) < len(required):
        raise SourceError(
            f"`{reference}`: forward{signature} needs {len(required)} inputs, `inputs` gives {len(inputs)}"
        )
    return inputs, False


def _signature(module: Any) -> inspect.Signature | None:
    if _is_script(module):
        parameters = []
        for argument in module.forward.schema.arguments[1:]:
            default = argument.default_value if argument.has_default_value() else inspect.Parameter.empty
            parameters.append(
                inspect.Parameter(argument.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
            )
        return inspect.Signature(parameters)
    try:
        return inspect.signature(module.forward)
    except (TypeError, ValueError):
        return None


def _spec_of_program(program: Any) -> Spec:
    """Read names, element types and dynamic dimensions off an exported program."""
    import numpy as np
    import torch
    from mopt.ir.dtypes import word
    from onnx_ir import DataType

    names = list(program.graph_signature.user_inputs)
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    symbols: dict[str, str] = {}
    spec: dict[str, TensorType] = {}
    for name in names:
        value = placeholders[name].meta.get("val") if isinstance(name, str) else None
        if not isinstance(value, torch.Tensor):
            raise SourceError(f"the exported program takes `{name}`, which is no tensor")
        dims: list[int | str] = []
        for axis, size in enumerate(value.shape):
            if isinstance(size, int):
                dims.append(size)
            else:
                fallback = "N" if axis == 0 and "N" not in symbols.values() else f"{name}_dim{axis}"
                dims.append(symbols.setdefault(str(size), fallback))
        dtype = word(
            DataType.from_numpy(np.dtype(str(value.dtype).removeprefix("torch.").replace("bfloat16", "float32")))
        )
        spec[name] = TensorType(dtype, tuple(dims))
    return spec


def _first_line(error: object) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def keyword_arguments(loaded: Loaded, tensors: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split tensors into positional and keyword arguments, in the order `forward` takes them."""
    ordered = [tensors[name] for name in loaded.spec]
    return ((), dict(zip(loaded.spec, ordered, strict=True))) if loaded.by_name else (tuple(ordered), {})
