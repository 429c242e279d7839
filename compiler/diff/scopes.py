"""Pairs of scopes: the main graphs, the bodies of paired operators, functions of one name; matched outermost first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir
from mopt.diff.groups import Regions
from mopt.diff.interface import align
from mopt.diff.labels import Detail
from mopt.diff.match import Matcher, colour_interface, new_labels
from mopt.diff.pairing import Pairing
from mopt.diff.prints import Prints
from mopt.diff.scope import Kind, Scope, Source
from mopt.ir.module import Module


@dataclass(eq=False)
class ScopePair:
    """Two scopes that stand for each other, matched, with the groups of what did not match."""

    pairing: Pairing
    regions: Regions
    inputs: dict[int, int]
    outputs: dict[int, int]

    @property
    def a(self) -> Scope:
        """The first side's scope."""
        return self.pairing.a

    @property
    def b(self) -> Scope:
        """The second side's scope."""
        return self.pairing.b


class ScopeMatcher:
    """Matches all scopes of two modules; `pairs` come outermost first."""

    def __init__(self, a: Module, b: Module, prints: Prints, *, weights: bool) -> None:
        self.prints, self.weights = prints, weights
        self.pairs: list[ScopePair] = []
        self._partner: dict[ir.Value, ir.Value] = {}
        self.roots = tuple(Scope(module.graph, "", None, dict(module.model.opset_imports), prints) for module in (a, b))
        first, second = self.roots
        self.everything = (list(all_scopes(first)), list(all_scopes(second)))
        inputs = align(first.inputs, second.inputs)
        outputs = align(list(a.graph.outputs), list(b.graph.outputs))
        self._match(first, second, inputs, outputs)
        functions = [
            {key: self._function(side, function) for key, function in module.model.functions.items()}
            for side, module in enumerate((a, b))
        ]
        for identifier, function in functions[0].items():
            if identifier in functions[1]:
                self._positional(function, functions[1][identifier])

    def _function(self, side: int, function: ir.Function) -> Scope:
        path = f"{function.domain}::{function.name}"
        scope = Scope(function, path, None, dict(function.opset_imports), self.prints)
        self.everything[side].extend(all_scopes(scope))
        return scope

    def _positional(self, a: Scope, b: Scope) -> None:
        inputs = {i: i for i in range(min(len(a.inputs), len(b.inputs)))}
        self._match(a, b, inputs, {i: i for i in range(min(len(a.outputs), len(b.outputs)))})

    def _match(self, a: Scope, b: Scope, inputs: dict[int, int], outputs: dict[int, int]) -> None:
        labels = new_labels(a, b, self.prints, weights=self.weights)
        colour_interface(a, b, labels, inputs, outputs)
        places = {value: position for position, value in enumerate(b.outer)}
        for x, value in enumerate(a.outer):
            partner = self._partner.get(value)
            if partner in places:
                colour = ("outer", x)
                labels[0].colours[Source(Kind.OUTER, x)] = colour
                labels[1].colours[Source(Kind.OUTER, places[partner])] = colour
        pairing = Matcher(a, b, labels, self.prints).run()
        for x, y in inputs.items():
            self._partner[a.inputs[x]] = b.inputs[y]
        for x, y in enumerate(pairing.to_b):
            if y >= 0:
                self._partner.update(zip(a.operators[x].outputs, b.operators[y].outputs, strict=False))
        regions = Regions(pairing, _with_other_work(pairing))
        self.pairs.append(ScopePair(pairing, regions, inputs, outputs))
        for x, y in enumerate(pairing.to_b):
            if y >= 0:
                for name in a.bodies[x].keys() & b.bodies[y].keys():
                    self._positional(a.bodies[x][name], b.bodies[y][name])


def all_scopes(root: Scope) -> Iterator[Scope]:
    """Yield a scope and all inside it."""
    yield root
    for bodies in root.bodies:
        for body in bodies.values():
            yield from all_scopes(body)


def _with_other_work(pairing: Pairing) -> set[int]:
    """Return the paired operators whose attributes, weights or number of inputs differ from their partner's."""
    first, second = (labels.first(Detail.CONTENTS) for labels in pairing.labels)
    return {x for x, y in enumerate(pairing.to_b) if y >= 0 and first[x] != second[y] and _own_work(pairing, x, y)}


def _own_work(pairing: Pairing, x: int, y: int) -> bool:
    a, b = pairing.a, pairing.b
    if a.attributes[x] != b.attributes[y] or a.explicit[x] != b.explicit[y]:
        return True
    return any(
        sa.kind == sb.kind == Kind.WEIGHT
        and pairing.prints.of(a.weights[sa.number].tensor) != pairing.prints.of(b.weights[sb.number].tensor)
        for sa, sb in pairing.slots(x, y)
    )
