"""Convert a PyTorch model: load it, find sizes, try the exporters, keep the first whose graph is right.

Right means: onnxruntime computes what PyTorch computes at two sets of sizes that are not the traced one. An
exporter that bakes a dynamic size in fails there, and the other one gets its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.passes.convert.sizes import example, find_sizes
from mopt.passes.convert.torch_export import Exporter, ExportFailedError, export, order
from mopt.passes.convert.torch_load import Loaded, keyword_arguments, load_torch
from mopt.passes.convert.user_code import blamed
from mopt.passes.convert.worker import MODEL
from mopt.runtime.contract import SourceError

if TYPE_CHECKING:
    import numpy as np
    from mopt.ir.module import Module
    from mopt.passes.convert.torch_source import TorchSource

    Arrays = dict[str, np.ndarray[Any, Any]]


def convert_torch(source: TorchSource, scratch: Path, seed: int, phase: Callable[[str], None]) -> list[str]:
    """Convert to `scratch / MODEL` and return the notes. Runs in the conversion process.

    Raises:
        SourceError: it can't be loaded or converted.
    """
    _seed(seed)
    phase("loading the model")
    loaded, notes = load_torch(source, phase)
    phase("running the model")
    run = Reference(loaded, source)
    traced, checks = find_sizes(loaded.spec, source.sizes, lambda sizes: run.attempt(example(loaded.spec, sizes, seed)))
    run.check_repeatable(example(loaded.spec, traced, seed))
    failures: list[str] = []
    for exporter in order(loaded, source.exporter):
        started = time.perf_counter()
        phase(f"exporting with the {exporter} exporter")
        try:
            module, agreement = _converted(exporter, loaded, run, source, scratch, seed, traced, checks)
        except (ExportFailedError, _RejectedError) as error:
            failures.append(f"{exporter}: {error}")
            continue
        seconds = time.perf_counter() - started
        notes.append(f"exported by {exporter} in {seconds:.1f} s; {agreement}")
        notes += [f"not by {failure}" for failure in failures]
        from mopt.ir import save

        save(module, scratch / MODEL, provenance=True)
        return notes
    listed = "".join(f"\n  {failure}" for failure in failures)
    raise SourceError(f"`{source.model}` can't be converted to an ONNX graph that agrees with PyTorch:{listed}")


class Reference:
    """The PyTorch model as a function of numpy arrays; it learns the outputs' names on its first run."""

    def __init__(self, loaded: Loaded, source: TorchSource) -> None:
        self._loaded = loaded
        self._source = source
        self.outputs: list[str] = []

    def __call__(self, feeds: Mapping[str, Any]) -> Arrays:
        """Run the model.

        Raises:
            SourceError: it raises, or returns something that is no tensor.
        """
        import torch

        tensors = {name: torch.from_numpy(array.copy()) for name, array in feeds.items()}
        arguments, keywords = keyword_arguments(self._loaded, tensors)
        what = f"`{self._source.model}`, called with {_described(feeds)},"
        with torch.no_grad(), blamed(what, self._loaded.folder):
            returned = self._loaded.module(*arguments, **keywords)
        named = _flat(returned)
        if not named:
            raise SourceError(f"{what} returned {_kind(returned)} instead of tensors")
        self.outputs = list(self._source.outputs) or [name for name, _ in named]
        if len(self.outputs) != len(named):
            have = ", ".join(f"`{name}`" for name, _ in named)
            raise SourceError(
                f"`outputs` names {len(self.outputs)} outputs, but the model returns {len(named)}: {have}"
            )
        return {name: _array(tensor) for name, (_, tensor) in zip(self.outputs, named, strict=True)}

    def attempt(self, feeds: Mapping[str, Any]) -> None:
        """Run the model for its errors."""
        self(feeds)

    def check_repeatable(self, feeds: Mapping[str, Any]) -> None:
        """Check that the same input gives the same output.

        Raises:
            SourceError: the model keeps state between calls, or is random.
        """
        from mopt.runtime.compare import drift

        found = drift(self(feeds), self(feeds))
        if not found.within(1e-5):
            raise SourceError(
                f"`{self._source.model}` gives two outputs for one input ({found}): it keeps state between calls or "
                "draws at random, which a graph can't; make the state an input and an output "
                "(`part=…` converts the submodule that takes it)"
            )


class _RejectedError(Exception):
    """An exporter's graph is wrong; the message says how."""


def _converted(
    exporter: Exporter,
    loaded: Loaded,
    run: Reference,
    source: TorchSource,
    scratch: Path,
    seed: int,
    traced: Mapping[str, int],
    checks: list[dict[str, int]],
) -> tuple[Module, object]:
    import torch
    from mopt.ir import IRError, load
    from mopt.passes.convert import interface, source_names
    from mopt.passes.convert.agreement import DisagreementError, agree, observe

    path = scratch / f"{exporter}.onnx"
    tensors = {name: torch.from_numpy(array) for name, array in example(loaded.spec, traced, seed).items()}
    export(exporter, loaded, tensors, run.outputs, source.opset, path)
    try:
        module = load(path)
    except IRError as error:
        raise _RejectedError(f"its file can't be read: {error}") from error
    names = [name for name, _ in loaded.module.named_modules()]
    parameters = {name: _array(value) for name, value in loaded.module.state_dict(keep_vars=True).items()}
    source_names.tidy(module, parameters)
    source_names.stamp_torch(module, names)
    source_names.name_weights(module, parameters, ".", {"weight": "weight", "bias": "bias"})
    interface.drop_exporter_metadata(module)
    try:
        interface.set_input_types(module, dict(source.inputs) or loaded.spec)
        interface.rename_outputs(module, run.outputs)
    except SourceError as error:
        raise _RejectedError(str(error)) from error
    interface.refresh_shapes(module)
    sets = [dict(traced), *checks]
    interface.settle_output_shapes(module, observe(lambda sizes: example(loaded.spec, sizes, seed), run, sets))
    try:
        return module, agree(module, run, checks, seed)
    except DisagreementError as error:
        raise _RejectedError(str(error)) from error


def _flat(returned: Any) -> list[tuple[str, Any]]:
    """Flatten what a module returns the way the exporters do, and name each tensor by where it stands."""
    import torch
    from torch.utils import _pytree as pytree

    pairs, _ = pytree.tree_flatten_with_path(returned)
    tensors = [(path, value) for path, value in pairs if isinstance(value, torch.Tensor)]
    if len(tensors) == 1 and not tensors[0][0]:
        return [("output", tensors[0][1])]
    named: list[tuple[str, Any]] = []
    for path, value in tensors:
        parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
        name = "_".join(f"output_{part}" if part.isdigit() and at == 0 else part for at, part in enumerate(parts))
        named.append((name, value))
    return named


def _array(tensor: Any) -> np.ndarray[Any, Any]:
    import torch

    plain = tensor.detach().cpu()
    if plain.dtype == torch.bfloat16:
        import ml_dtypes

        return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
    return plain.contiguous().numpy()  # type: ignore[no-any-return]


def _described(feeds: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in feeds.items())


def _kind(returned: Any) -> str:
    from mopt.passes.convert.user_code import described

    return described(returned)


def _seed(seed: int) -> None:
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
