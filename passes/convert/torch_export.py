"""PyTorch's two ONNX exporters, each with its traps.

`torch.export` (dynamo) keeps module structure and shape guards, but is slow on recurrent layers and may bake a
dynamic size in. The TorchScript exporter is fast and takes recurrent layers as ONNX's own, but follows Python
branches only as far as one input takes it. Neither is trusted: see `torch_convert`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final, Literal

from mopt.passes.convert.torch_load import Loaded, keyword_arguments

Exporter = Literal["dynamo", "torchscript"]

_TORCHSCRIPT_OPSETS: Final = 20
"""The last opset the TorchScript exporter writes."""


class ExportFailedError(Exception):
    """An exporter gave up; the message is its first line."""


def order(loaded: Loaded, wanted: str) -> tuple[Exporter, ...]:
    """Return the exporters to try, the likelier first.

    Recurrent layers go through TorchScript first: it maps them to ONNX LSTM and GRU in a fraction of a second.
    A ScriptModule has no Python to export from, an exported program no TorchScript.
    """
    import torch

    if wanted == "dynamo":
        return ("dynamo",)
    if wanted == "torchscript":
        return ("torchscript",)
    if loaded.kind == "script":
        return ("torchscript",)
    if loaded.kind == "exported":
        return ("dynamo",)
    recurrent = (torch.nn.RNNBase, torch.nn.RNNCellBase)
    scripted = (torch.jit.ScriptModule,)
    if any(isinstance(part, (*recurrent, *scripted)) for part in loaded.module.modules()):
        return ("torchscript", "dynamo")
    return ("dynamo", "torchscript")


def export(
    exporter: Exporter, loaded: Loaded, tensors: dict[str, Any], outputs: list[str], opset: int, path: Path
) -> None:
    """Export to a file.

    Args:
        tensors: an example per input.
        outputs: names of the outputs.

    Raises:
        ExportFailedError: the exporter raised.
    """
    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            if exporter == "dynamo":
                _dynamo(loaded, tensors, outputs, opset, path)
            else:
                _torchscript(loaded, tensors, outputs, opset, path)
        except Exception as error:  # exporters raise anything, up to bare asserts
            raise ExportFailedError(_reason(error)) from error


def _torchscript(loaded: Loaded, tensors: dict[str, Any], outputs: list[str], opset: int, path: Path) -> None:
    import torch

    if opset > _TORCHSCRIPT_OPSETS:
        raise ExportFailedError(f"it writes opsets up to {_TORCHSCRIPT_OPSETS}, not {opset}")
    arguments, keywords = keyword_arguments(loaded, tensors)
    dynamic = {
        name: {axis: dim for axis, dim in enumerate(kind.dims) if isinstance(dim, str)}
        for name, kind in loaded.spec.items()
    }
    torch.onnx.export(
        loaded.module,
        arguments,
        str(path),
        kwargs=keywords or None,
        dynamo=False,
        input_names=list(loaded.spec),
        output_names=outputs,
        dynamic_axes={name: axes for name, axes in dynamic.items() if axes},
        opset_version=opset,
        # EVAL would fuse batch norms into convolutions and lose the parameters' names; the module is in eval mode
        training=torch.onnx.TrainingMode.PRESERVE,
        verbose=False,
    )


def _dynamo(loaded: Loaded, tensors: dict[str, Any], outputs: list[str], opset: int, path: Path) -> None:
    import torch

    if loaded.kind == "exported":
        program = torch.onnx.export(
            loaded.program,
            dynamo=True,
            input_names=list(loaded.spec),
            output_names=outputs,
            opset_version=opset,
            verbose=False,
            optimize=False,
        )
    else:
        arguments, keywords = keyword_arguments(loaded, tensors)
        shapes = {
            # not a named Dim: that one refuses a model whose two inputs must be of one size
            name: {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(kind.dims) if isinstance(dim, str)}
            for name, kind in loaded.spec.items()
        }
        program = torch.onnx.export(
            loaded.module,
            arguments,
            kwargs=keywords or None,
            dynamo=True,
            input_names=list(loaded.spec),
            output_names=outputs,
            dynamic_shapes=shapes if loaded.by_name else tuple(shapes.values()),
            opset_version=opset,
            verbose=False,
            optimize=False,  # its optimiser fuses batch norms; folding constants is enough here
        )
    program.save(str(path))


def _reason(error: BaseException) -> str:
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    for candidate in (root, error):
        lines = [line.strip() for line in str(candidate).splitlines() if line.strip()]
        if lines:
            return f"{type(candidate).__name__}: {lines[0][:300]}"
    return type(root).__name__
