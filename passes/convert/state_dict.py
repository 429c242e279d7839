"""Load a state dict from a file without running pickled code, and fit it to a module with clear complaints."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mopt.runtime.contract import SourceError

_WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "net", "weights", "params", "module", "ema")
_SHOWN: Final = 8
_BUFFERS: Final = ("num_batches_tracked",)
"""Bookkeeping of training that old files lack and inference never reads."""

Tensors = dict[str, Any]


def read_state_dict(path: Path) -> tuple[Tensors, list[str]]:
    """Return the tensors of a weights file by name, and notes on how they were found.

    Raises:
        SourceError: the file is no weights file, is damaged, or holds pickled code.
    """
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(str(path))), []
        except (SafetensorError, OSError, ValueError) as error:
            raise SourceError(f"{path.name} is no readable safetensors file: {error}") from error
    if suffix in (".h5", ".hdf5", ".keras"):
        raise SourceError(f"{path.name} holds Keras weights; `torch` takes .safetensors, .pt or .pth")
    return _unwrapped(load_pickled(path), path)


def load_pickled(path: Path) -> Any:
    """Load a `.pt` file, allowing tensors and plain containers only.

    Raises:
        SourceError: it holds anything else, or is damaged.
    """
    import pickle
    import zipfile

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SourceError(_refusal(path, str(error))) from error
    except RuntimeError as error:
        if "TorchScript archive" in str(error):
            return torch.jit.load(str(path), map_location="cpu").state_dict()
        raise SourceError(f"{path.name} can't be read: {_first_line(error)}") from error
    except (EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path.name} is no readable PyTorch file: {_first_line(error)}") from error


def fit(module: Any, tensors: Tensors, file: str, ignore: Sequence[str]) -> list[str]:
    """Load tensors into a module, stripping a common prefix where that makes them fit, and return notes.

    Raises:
        SourceError: keys are missing or unexpected, or shapes differ; each is listed with its nearest name.
    """
    import torch

    wanted: Tensors = module.state_dict()
    tensors, notes = _without_prefix(tensors, wanted, file)
    ignored = [key for key in tensors if key not in wanted and any(fnmatch.fnmatchcase(key, glob) for glob in ignore)]
    tensors = {key: value for key, value in tensors.items() if key not in set(ignored)}
    if ignored:
        notes.append(f"{file}: {len(ignored)} keys ignored as asked ({', '.join(ignored[:3])}…)")
    missing = [key for key in wanted if key not in tensors and not key.endswith(_BUFFERS)]
    unexpected = [key for key in tensors if key not in wanted and not key.endswith(_BUFFERS)]
    shapes = [
        f"`{key}` is {list(tensors[key].shape)} in the file, but {list(value.shape)} in the module"
        for key, value in wanted.items()
        if key in tensors and tuple(tensors[key].shape) != tuple(value.shape)
    ]
    # tied weights are stored once: a missing key is no loss if its tensor is loaded under another name
    storages = {value.data_ptr() for key, value in wanted.items() if key in tensors and value.numel()}
    missing = [key for key in missing if not wanted[key].numel() or wanted[key].data_ptr() not in storages]
    if missing or unexpected or shapes:
        raise SourceError(_complaint(file, missing, unexpected, shapes))
    with torch.no_grad():
        module.load_state_dict({key: value for key, value in tensors.items() if key in wanted}, strict=False)
    return notes


def _unwrapped(found: Any, path: Path) -> tuple[Tensors, list[str]]:
    import torch

    notes: list[str] = []
    while isinstance(found, Mapping):
        tensors = {str(key): value for key, value in found.items() if isinstance(value, torch.Tensor)}
        inner = [name for name in _WRAPPERS if isinstance(found.get(name), Mapping)]
        if inner and (not tensors or len(tensors) < len(found)):
            notes.append(f"{path.name}: the weights are its entry `{inner[0]}`")
            found = found[inner[0]]
            continue
        if tensors:
            return tensors, notes
        break
    keys = f" (its keys: {', '.join(map(str, list(found)[:6]))})" if isinstance(found, Mapping) else ""
    raise SourceError(f"{path.name} holds no state dict{keys}; save one with torch.save(model.state_dict(), …)")


def _without_prefix(tensors: Tensors, wanted: Tensors, file: str) -> tuple[Tensors, list[str]]:
    """Strip first components (`module.`, as DataParallel adds) as long as more keys fit than before."""
    best, stripped = tensors, ""
    while True:
        fitting = sum(key in wanted for key in best)
        heads: dict[str, int] = {}
        for key in best:
            head, dot, rest = key.partition(".")
            if dot and rest in wanted:
                heads[head] = heads.get(head, 0) + 1
        head = max(heads, key=lambda name: heads[name], default="")
        if not head:
            # wrapped twice: the first component is everywhere, though what is below it does not fit yet
            firsts = {key.partition(".")[0] for key in best}
            head = next(iter(firsts)) if len(firsts) == 1 and not fitting else ""
            if not head or all("." not in key for key in best):
                break
        elif heads[head] <= fitting:
            break
        best = {key.removeprefix(f"{head}."): value for key, value in best.items()}
        stripped += f"{head}."
    if not stripped or sum(key in wanted for key in best) <= sum(key in wanted for key in tensors):
        return tensors, []
    return best, [f"{file}: the prefix `{stripped}` of its keys was dropped"]


def _complaint(file: str, missing: list[str], unexpected: list[str], shapes: list[str]) -> str:
    lines = [f"{file} does not fit the module:"]
    if missing:
        lines += _listed("missing from the file", missing, unexpected)
    if unexpected:
        lines += _listed("in the file, but not in the module", unexpected, missing)
        lines.append("    (`ignore=[…]` takes patterns of keys to leave out)")
    if shapes:
        lines.append(f"  {len(shapes)} of another shape:")
        lines += [f"    {line}" for line in shapes[:_SHOWN]]
        lines += [f"    … and {len(shapes) - _SHOWN} more"] if len(shapes) > _SHOWN else []
    return "\n".join(lines)


def _listed(title: str, keys: list[str], others: list[str]) -> list[str]:
    lines = [f"  {len(keys)} {title}:"]
    for key in keys[:_SHOWN]:
        close = difflib.get_close_matches(key, others, n=1, cutoff=0.6)
        lines.append(f"    `{key}`" + (f" (nearest there: `{close[0]}`)" if close else ""))
    if len(keys) > _SHOWN:
        lines.append(f"    … and {len(keys) - _SHOWN} more")
    return lines


def _refusal(path: Path, message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", message) or re.search(
        r"Unsupported (?:class|global)[: ]+(?:GLOBAL )?([\w.]+)", message
    )
    if found:
        return (
            f"{path.name} is a pickle with code in it (`{found.group(1)}`), which loading would run; mopt loads "
            "tensors only. Save the weights alone, torch.save(model.state_dict(), …) or safetensors, and name "
            "the factory that builds the module"
        )
    return f"{path.name} is no PyTorch weights file, or is damaged: {_first_line(message)}"


def _first_line(error: object) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
