"""Activations and normalisations that exporters spell out, computed by the one torch operator that is meant.

The graph stays as it is; the runner computes the last node of such a pattern from the pattern's inputs. One operator
keeps one tensor for its gradient where the spelt-out one keeps three or four, which is where the memory of training
goes. Patterns are only taken where nothing else reads what is inside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.ir.weights import constant_tensor, is_constant
from mopt.runtime.trainable.compiling import Override
from torch.nn import functional as F

_CLOSE: Final = 1e-4
"""How far a constant may be from what the formula has (√2 is written with between 5 and 17 digits)."""


def fusions(module: Module) -> dict[ir.Node, Override]:
    """Return, for the last node of every pattern found, how to compute it from the pattern's inputs."""
    found: dict[ir.Node, Override] = {}
    for node in module.nodes():
        if node.domain != "":
            continue
        matchers = _MATCHERS.get(node.op_type, ())
        for match in matchers:
            override = match(node)
            if override is not None:
                found[node] = override
                break
    return found


def _gelu(node: ir.Node) -> Override | None:
    """x · ½ · (1 + erf(x / √2)), the factors in any order."""
    factors = list(_factors(node))
    tails = [value for value in factors if _number(value) is None]
    scale = float(np.prod([number for value in factors if (number := _number(value)) is not None]))
    if len(tails) != 2 or not np.isclose(scale, 0.5, rtol=_CLOSE):
        return None
    for x, gate in (tails, tails[::-1]):
        erf = _plus(gate, 1.0, "Erf")
        inner = None if erf is None else erf.inputs[0]
        if inner is not None and _scaled(inner, x, 2**-0.5):
            return Override(lambda x: F.gelu(x), (x,))
    return None


def _hard_swish(node: ir.Node) -> Override | None:
    """x · clip(x + 3, 0, 6) / 6, or x · HardSigmoid(x)."""
    factors = list(_factors(node, through_division=True))
    tails = [value for value in factors if _number(value) is None]
    if len(tails) != 2:
        return None
    scale = _scale(node)
    for x, gate in (tails, tails[::-1]):
        clip = _producer(gate, "Clip", single=True)
        if clip is not None and np.isclose(scale, 1 / 6, rtol=_CLOSE) and _limits(clip) == (0.0, 6.0):
            inner = _plus_of(clip.inputs[0], 3.0)
            if inner is x:
                return Override(lambda x: F.hardswish(x), (x,))
    return None


def _silu(node: ir.Node) -> Override | None:
    """x · sigmoid(x)."""
    for x, gate in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        sigmoid = _producer(gate, "Sigmoid", single=True)
        if x is not None and sigmoid is not None and sigmoid.inputs[0] is x:
            return Override(lambda x: F.silu(x), (x,))
    return None


def _layer_norm(node: ir.Node) -> Override | None:
    """(x - mean) / sqrt(mean((x - mean)²) + ε) over the last axis."""
    centred, root = node.inputs
    deviation = _producer(root, "Sqrt", single=True)
    minus = _producer(centred, "Sub")
    if centred is None or deviation is None or minus is None or len(centred.uses()) > 3:
        return None
    sum_ = _producer(deviation.inputs[0], "Add", single=True)
    x, mean = minus.inputs
    if sum_ is None or x is None or not _is_mean(mean, x):
        return None
    for variance, epsilon in (tuple(sum_.inputs), tuple(sum_.inputs)[::-1]):
        number = _number(epsilon)
        average = _producer(variance, "ReduceMean", single=True)
        if number is None or average is None or not _last_axis(average):
            continue
        square = _producer(average.inputs[0], "Pow", single=True)
        # Paddle subtracts the mean twice, once for either use.
        if square is not None and _number(square.inputs[1]) == 2.0 and _same_difference(square.inputs[0], centred):
            return _normalised(x, number)
    return None


def _normalised(x: ir.Value, epsilon: float) -> Override:
    return Override(lambda x: F.layer_norm(x, x.shape[-1:], None, None, epsilon), (x,))


_MATCHERS: Final = {"Mul": (_gelu, _hard_swish, _silu), "Div": (_hard_swish, _layer_norm)}
"""Last operator of a pattern → what looks for it."""


def _producer(value: ir.Value | None, operator: str, *, single: bool = False) -> ir.Node | None:
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != operator or node.domain != "":
        return None
    return None if single and (len(value.uses()) != 1 or value.is_graph_output()) else node


def _number(value: ir.Value | None) -> float | None:
    """Return the number a value always is; None if it is none."""
    if value is None:
        return None
    producer = value.producer()
    if producer is not None:
        tensor = constant_tensor(producer) if is_constant(producer) else None
    else:
        tensor = value.const_value if value.is_initializer() else None
    if tensor is None or tensor.size != 1 or not tensor.dtype.is_floating_point():
        return None
    return float(tensor.numpy().reshape(-1)[0])


def _factors(node: ir.Node, *, through_division: bool = False) -> Iterator[ir.Value]:
    """Yield what is multiplied, through products that nothing else reads; of a division what is divided."""
    places = node.inputs[:1] if node.op_type == "Div" else node.inputs
    for value in places:
        inner = _producer(value, "Mul", single=True)
        if inner is None and through_division:
            inner = _divided_by_number(value)
        if inner is not None:
            yield from _factors(inner, through_division=through_division)
        elif value is not None:
            yield value


def _divided_by_number(value: ir.Value | None) -> ir.Node | None:
    node = _producer(value, "Div", single=True)
    return node if node is not None and _number(node.inputs[1]) is not None else None


def _scale(node: ir.Node) -> float:
    """Return the product of the numbers among the factors of a node, divisions by numbers included."""
    total = 1.0
    if node.op_type == "Div":
        divisor = _number(node.inputs[1])
        if divisor is None or divisor == 0:
            return float("nan")
        total /= divisor
    for value in node.inputs[:1] if node.op_type == "Div" else node.inputs:
        number = _number(value)
        inner = _producer(value, "Mul", single=True) or _divided_by_number(value)
        total *= number if number is not None else _scale(inner) if inner is not None else 1.0
    return total


def _plus(value: ir.Value | None, number: float, operator: str) -> ir.Node | None:
    """Return the node of an operator to whose result a number is added."""
    add = _producer(value, "Add", single=True)
    for one, other in () if add is None else (tuple(add.inputs), tuple(add.inputs)[::-1]):
        if _number(other) == number:
            return _producer(one, operator, single=True)
    return None


def _plus_of(value: ir.Value | None, number: float) -> ir.Value | None:
    """Return the value to which a number is added."""
    add = _producer(value, "Add", single=True)
    for one, other in () if add is None else (tuple(add.inputs), tuple(add.inputs)[::-1]):
        if _number(other) == number:
            return one
    return None


def _scaled(value: ir.Value, x: ir.Value, factor: float) -> bool:
    """Say whether a value is x times a factor (written as a product or a division)."""
    divided, product = _producer(value, "Div", single=True), _producer(value, "Mul", single=True)
    if divided is not None and divided.inputs[0] is x:
        number = _number(divided.inputs[1])
        return number is not None and bool(np.isclose(1 / number, factor, rtol=_CLOSE))
    if product is not None and x in product.inputs:
        number = _number(product.inputs[1] if product.inputs[0] is x else product.inputs[0])
        return number is not None and bool(np.isclose(number, factor, rtol=_CLOSE))
    return False


def _limits(clip: ir.Node) -> tuple[float | None, float | None]:
    if "min" in clip.attributes or "max" in clip.attributes:
        low, high = clip.attributes.get("min"), clip.attributes.get("max")
        return (None if low is None else low.as_float(), None if high is None else high.as_float())
    inputs = [*clip.inputs, None, None]
    return _number(inputs[1]), _number(inputs[2])


def _is_mean(value: ir.Value | None, x: ir.Value) -> bool:
    node = _producer(value, "ReduceMean")
    return node is not None and node.inputs[0] is x and _last_axis(node)


def _last_axis(node: ir.Node) -> bool:
    """Say whether a mean is taken over the last axis only, which stays."""
    keep = node.attributes.get("keepdims")
    if keep is not None and keep.as_int() == 0:
        return False
    axes: list[int] = []
    if "axes" in node.attributes:
        axes = list(node.attributes["axes"].as_ints())
    elif len(node.inputs) > 1 and node.inputs[1] is not None:
        value = node.inputs[1]
        producer = value.producer()
        tensor = value.const_value if producer is None else constant_tensor(producer) if is_constant(producer) else None
        axes = [] if tensor is None else [int(axis) for axis in tensor.numpy().reshape(-1)]
    shape = None if node.inputs[0] is None else node.inputs[0].shape
    return axes == [-1] or (shape is not None and axes == [len(shape) - 1])


def _same_difference(value: ir.Value | None, other: ir.Value) -> bool:
    if value is other:
        return True
    one, two = _producer(value, "Sub"), _producer(other, "Sub")
    if one is None or two is None or one.inputs[0] is not two.inputs[0]:
        return False
    x = one.inputs[0]
    return x is not None and _is_mean(one.inputs[1], x) and _is_mean(two.inputs[1], x)
