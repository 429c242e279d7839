"""Made-up inputs that a model accepts: seeded values, and sizes for its dynamic dimensions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from mopt.runtime.contract import RunError
from mopt.runtime.dimensions import dynamic_dimensions, resolve
from mopt.runtime.dtypes import is_element_type, numpy_dtype
from mopt.runtime.input_roles import Role, input_roles
from mopt.runtime.text_image import text_images

if TYPE_CHECKING:
    from mopt.ir.module import Module

Array = np.ndarray[Any, np.dtype[Any]]

_found: dict[str, tuple[dict[str, int], ...]] = {}
"""Sizes found, by `structure_key`: the same for every module of the same structure, whatever its weights."""


def seeded_inputs(module: Module, bindings: Mapping[str, int] | None = None, seed: int = 0) -> dict[str, Array]:
    """Draw an array for every input of a module; the same for the same module, bindings and seed.

    Reals are standard normal (pictures: noisy text on paper, see `mopt.runtime.text_image`), integers that index a
    table stay inside it, masks are 0/1 with ones first, and an integer that the graph compares with a constant
    (a sample rate) is that constant.

    Args:
        bindings: sizes of dynamic dimensions; those it lacks are taken from `binding_sets`.

    Raises:
        RunError: no sizes were given and none could be found.
    """
    known = dict(bindings or {})
    if any(dimension.key not in known for dimension in dynamic_dimensions(module)):
        known = {**binding_sets(module)[0], **known}
    return draw(module, input_roles(module), known, seed)


def draw(module: Module, roles: Mapping[str, Role], bindings: Mapping[str, int], seed: int) -> dict[str, Array]:
    """Draw an array for every input, given every size and role.

    Raises:
        RunError: an input is no tensor (a sequence, an optional), or its rank is not known.
    """
    feeds = {}
    for position, tensor in enumerate(module.inputs):
        if not tensor.ranked or not is_element_type(tensor.dtype):
            raise RunError(f"can't make up values for input `{tensor}`; only for tensors of known rank")
        rng = np.random.default_rng([seed, position])
        shape = resolve(tensor.name, tensor.shape, bindings)
        feeds[tensor.name] = _values(roles[tensor.name], shape, tensor.dtype, rng)
    return feeds


def binding_sets(module: Module) -> list[dict[str, int]]:
    """Return sizes for the dynamic dimensions that the model really accepts, tried under onnxruntime.

    Two sets that differ (in the batch and in every other dimension, as far as the model lets them) where
    dimensions are dynamic; one, empty, where none is. Fewer where the model accepts no second set.

    Raises:
        RunError: the model runs with none of the sizes tried.
        TargetError: onnxruntime refuses the model.
    """
    if not dynamic_dimensions(module):
        return [{}]
    from mopt.runtime.binding_search import search

    key = structure_key(module)
    if key not in _found:
        _found[key] = tuple(search(module))
    if not _found[key]:
        wanted = ", ".join(f"`{dimension.key}`" for dimension in dynamic_dimensions(module))
        raise RunError(f"found no sizes for {wanted} that the model accepts; bind them (`profile(bind={{…}})`)")
    return [dict(sizes) for sizes in _found[key]]


def structure_key(module: Module) -> str:
    """Return a hash of a module's interface, operators and weight shapes: what decides which sizes it accepts."""
    digest = hashlib.sha256()
    for tensor in module.inputs:
        digest.update(repr((tensor.name, tensor.dtype, tensor.shape)).encode())
    for node in module.nodes():
        digest.update(repr((node.op_type, [value and value.name for value in node.inputs])).encode())
    for name, value in module.graph.initializers.items():
        weight = value.const_value
        digest.update(repr((name, weight is not None and tuple(weight.shape))).encode())
        if weight is not None and weight.size <= 16 and weight.dtype.name.startswith("INT"):
            digest.update(weight.numpy().tobytes())  # the shapes of Reshape, the sizes of Resize
    return digest.hexdigest()


def _values(role: Role, shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    kind = numpy_dtype(dtype)
    if role.kind == "text":
        words = np.array([f"text {number}" for number in range(7)], dtype=object)
        return np.asarray(rng.choice(words, size=shape), dtype=object)
    if role.kind == "flag":
        return rng.integers(0, 2, size=shape).astype(kind)
    if role.kind == "choice":
        return np.full(shape, role.limit, dtype=kind)
    if role.kind == "index":
        return rng.integers(0, role.limit or 1, size=shape).astype(kind)
    if role.kind == "mask":
        return _mask(shape, rng).astype(kind)
    if role.kind == "integer":
        return rng.integers(0, 100 if kind.itemsize > 1 else 2, size=shape).astype(kind)
    if role.kind == "image" and len(shape) == 4:
        last = role.limit == 3
        count, *sides = shape
        channels, height, width = (sides[2], sides[0], sides[1]) if last else sides
        pictures = text_images((count, channels, height, width), rng)
        return np.ascontiguousarray(pictures.transpose(0, 2, 3, 1) if last else pictures).astype(kind)
    if role.kind == "positive":
        return rng.uniform(0.05, 1.0, size=shape).astype(kind)
    return rng.standard_normal(size=shape, dtype=np.float32).astype(kind)


def _mask(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Ones, then zeros, along the last axis: the first row all ones, the others at least half."""
    if not shape:
        return np.ones(shape)
    length = shape[-1]
    kept = rng.integers((length + 1) // 2, length + 1, size=shape[:-1])
    if kept.size:
        kept.reshape(-1)[0] = length
    return (np.arange(length) < np.asarray(kept)[..., None]).astype(np.float64)
