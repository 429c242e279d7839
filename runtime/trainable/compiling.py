"""From a graph to a program: prepares every node once, computes what is known already, decides where values live.

Values live in slots. What the graph reads but does not compute (parameters, constants) are *leaves* of the outermost
program; inner graphs capture them like any other value of an outer scope.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import onnx_ir as ir
import torch
from mopt.ir.weights import constant_tensor, is_constant
from mopt.runtime.trainable import control
from mopt.runtime.trainable.missing import Missing, missing_operator
from mopt.runtime.trainable.operator import HOST_INPUTS, OPERATORS, Call, Compute, UnsupportedOperatorError
from mopt.runtime.trainable.program import ABSENT, Mode, Program, Step
from mopt.runtime.trainable.tensors import Content, of_tensor, to_numpy

if TYPE_CHECKING:
    from mopt.runtime.trainable.weights import Leaf

_MEASURES: Final = frozenset({"Shape", "Size", "SequenceLength"})
"""They read no content: what they give is in the CPU's memory wherever their input is."""
_UNREPEATABLE: Final = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
)
_LARGEST_FOLDED: Final = 64 << 20
"""Bytes up to which a result is computed when the runner is built."""


Part = tuple[str, str]
"""(kind, name) of a part of the runner: a parameter or a buffer (`weight`), a quantiser (`quantizer`)."""


@dataclass(frozen=True)
class Override:
    """Another way to compute a node than its operator's: fused, or quantised in a way that lets gradients through.

    Attributes:
        compute: the function.
        inputs: values and parts of the runner it is called with.
    """

    compute: Compute
    inputs: tuple[ir.Value | Part, ...]


@dataclass
class Draft:
    """A step in the making; `node` is None where a leaf is prepared (cast, looked up, quantised)."""

    compute: Compute
    inputs: list[int]
    outputs: list[int]
    moves: tuple[int, ...]
    label: str
    node: ir.Node | None = None


@dataclass
class Surroundings:
    """What all scopes of one runner share."""

    module: ir.Model
    mode: Mode
    leaves: Mapping[ir.Value, Leaf]
    overrides: Mapping[ir.Node, Override] = field(default_factory=dict)
    skipped: frozenset[ir.Node] = frozenset()
    missing: list[Missing] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """A leaf of the outermost program: `kind` says what `name` names, or `content` is it (a constant)."""

    kind: str
    name: str
    content: Content | None = None


class Scope:
    """Compiles one graph (of a model, a branch, a loop's body, a function).

    Args:
        around: what all scopes share.
        parent: the scope whose values this one may capture; None for the outermost.
        known: what is computed already; shared with the parent except in functions.
        bindings: a function call's attributes.
    """

    def __init__(
        self,
        around: Surroundings,
        parent: Scope | None = None,
        known: MutableMapping[ir.Value, Content] | None = None,
        bindings: Mapping[str, ir.Attr] | None = None,
    ) -> None:
        self.around, self.parent = around, parent
        self.known: MutableMapping[ir.Value, Content] = (
            known if known is not None else {} if parent is None else parent.known
        )
        self.bindings: Mapping[str, Any] = (
            bindings if bindings is not None else {} if parent is None else parent.bindings
        )
        self.host: set[ir.Value] = set() if parent is None else set(parent.host)
        self.sources: dict[int, Source] = {}
        self.captures: dict[int, tuple[ir.Value | Part, bool]] = {}
        self.drafts: list[Draft] = []
        self.given: list[int] = []
        self._slots: dict[tuple[Any, bool], int] = {}
        self._aliases: dict[ir.Value, ir.Value] = {} if parent is None else dict(parent._aliases)
        self._count = 1  # slot 0 is for what is absent

    # Values and their slots

    def new_slot(self) -> int:
        """Return a fresh slot."""
        self._count += 1
        return self._count - 1

    def define(self, value: ir.Value, *, host: bool) -> int:
        """Give a value that this scope computes, or is handed, a slot."""
        slot = self._slots[value, False] = self.new_slot()
        (self.host.add if host else self.host.discard)(value)
        return slot

    def resolve(self, value: ir.Value) -> ir.Value:
        """Follow outputs of branches that were taken when the runner was built."""
        while value in self._aliases:
            value = self._aliases[value]
        return value

    def slot_of(self, value: ir.Value | None, *, host: bool = False) -> int:
        """Return where a value is found; `host` asks for a constant's copy in the CPU's memory."""
        if value is None:
            return ABSENT
        value = self.resolve(value)
        constant = value in self.known and value not in self.around.leaves
        key = (value, host and constant)
        if key in self._slots:
            return self._slots[key]
        if self.parent is not None:
            slot = self._slots[key] = self.new_slot()
            self.captures[slot] = (value, host and constant)
            return slot
        if constant:
            kind = "host" if host else "constant"
            slot = self._slots[key] = self._source(Source(kind, value.name or "", self.known[value]))
            return slot
        leaf = self.around.leaves.get(value)
        if leaf is None:
            raise KeyError(f"value `{value.name}` is read before it is computed")
        slot = self._slots[key] = self._leaf(leaf)
        return slot

    def part(self, part: Part) -> int:
        """Return the slot of a part of the runner (a parameter, a quantiser)."""
        key = (part, False)
        if key not in self._slots:
            if self.parent is None:
                self._slots[key] = self._source(Source(*part))
            else:
                slot = self._slots[key] = self.new_slot()
                self.captures[slot] = (part, False)
        return self._slots[key]

    def _source(self, source: Source) -> int:
        slot = self.new_slot()
        self.sources[slot] = source
        return slot

    def _leaf(self, leaf: Leaf) -> int:
        parts = [self.part(part) for part in leaf.parts]
        if leaf.compute is None:
            return parts[0]
        slot = self.new_slot()
        self.drafts.append(Draft(leaf.compute, parts, [slot], (), leaf.label))
        return slot

    # Nodes

    def nodes(self, nodes: Iterable[ir.Node]) -> None:
        """Compile nodes, in order."""
        for node in nodes:
            self.node(node)

    def node(self, node: ir.Node) -> None:
        """Compile one node: fold it, take it over, or add a step."""
        leaves = self.around.leaves
        if node in self.around.skipped or all(output in leaves for output in node.outputs):
            return
        if is_constant(node):
            if node.outputs[0] not in self.known:
                self.known[node.outputs[0]] = of_tensor(constant_tensor(node))
            return
        override = self.around.overrides.get(node)
        if override is not None:
            self._override(node, override)
            return
        function = self.around.module.functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            self._function(node, function)
            return
        if node.domain == "" and node.op_type in control.COMPILERS:
            control.COMPILERS[node.op_type](self, node)
            return
        self._operator(node)

    def _operator(self, node: ir.Node) -> None:
        prepare = OPERATORS.get((node.domain, node.op_type))
        inputs = [None if value is None else self.resolve(value) for value in node.inputs]
        constants = {
            place: self.known[value]
            for place, value in enumerate(inputs)
            if value is not None and value in self.known and value not in self.around.leaves
        }
        call = Call(
            node,
            self.around.module.opset_imports.get(node.domain, 0),
            self.around.mode,
            {place: to_numpy(content) for place, content in constants.items()},
            frozenset(
                place for place, value in enumerate(inputs)
                if value is not None and value in self.around.leaves and self.around.leaves[value].state
            ),
            self.bindings,
        )  # fmt: skip
        try:
            if prepare is None:
                raise UnsupportedOperatorError("the trainable runner has no such operator")
            compute = prepare(call)
        except UnsupportedOperatorError as error:
            self.around.missing.append(missing_operator(node, str(error)))
            self.placeholders(node)
            return
        present = sum(value is not None for value in inputs)
        if len(constants) == present and node.op_type not in _UNREPEATABLE and self._fold(node, compute, constants):
            return
        self.add(node, compute, inputs, call.outputs)

    def add(self, node: ir.Node, compute: Compute, inputs: Sequence[ir.Value | None], outputs: int) -> None:
        """Add a step for a node; where its results live follows from where its inputs do."""
        reads = HOST_INPUTS.get((node.domain, node.op_type), ())
        data = [
            value for place, value in enumerate(inputs)
            if value is not None and place not in reads and not self.is_known(value)
        ]  # fmt: skip
        host = node.op_type in _MEASURES or all(value in self.host for value in data)
        slots = [self.slot_of(value, host=host or place in reads) for place, value in enumerate(inputs)]
        moves = tuple(
            place for place, value in enumerate(inputs)
            if not host and place not in reads and value is not None and value in self.host
        )  # fmt: skip
        self.drafts.append(Draft(compute, slots, self.results(node, outputs, host=host), moves, label_of(node), node))

    def is_known(self, value: ir.Value) -> bool:
        """Say whether a value is a constant for this runner."""
        return value in self.known and value not in self.around.leaves

    def results(self, node: ir.Node, count: int, *, host: bool) -> list[int]:
        """Give the first outputs of a node their slots."""
        return [
            self.define(output, host=host) if output.name else self.new_slot() for output in node.outputs[:count]
        ]  # fmt: skip

    def placeholders(self, node: ir.Node) -> None:
        """Let compilation go on behind a node that can't be compiled, so that all such nodes are found at once."""
        for output in node.outputs:
            self.define(output, host=False)

    def alias(self, value: ir.Value, meant: ir.Value) -> None:
        """Say that a value is another one."""
        self._aliases[value] = self.resolve(meant)

    def _fold(self, node: ir.Node, compute: Compute, constants: Mapping[int, Content]) -> bool:
        arguments = [constants.get(place) for place in range(len(node.inputs))]
        try:
            with torch.no_grad():
                result = compute(*arguments)
        except Exception:  # noqa: BLE001 - it may be in a branch that never runs; there, it fails in its place
            return False
        results = result if isinstance(result, tuple) else (result,)
        for content in results:
            if not isinstance(content, torch.Tensor) or content.nbytes > _LARGEST_FOLDED:
                return False
        for output, content in zip(node.outputs, results, strict=False):
            self.known[output] = content
        return True

    def _override(self, node: ir.Node, override: Override) -> None:
        values = {
            place: self.resolve(item) for place, item in enumerate(override.inputs) if isinstance(item, ir.Value)
        }  # fmt: skip
        slots = [
            self.part(item) if isinstance(item, tuple) else self.slot_of(item) for item in override.inputs
        ]  # fmt: skip
        moves = tuple(place for place, value in values.items() if value in self.host)
        outputs = self.results(node, len(node.outputs), host=False)
        self.drafts.append(Draft(override.compute, slots, outputs, moves, label_of(node), node))

    def _function(self, node: ir.Node, function: ir.Function) -> None:
        inner = Scope(self.around, self, ChainMap({}, self.known), dict(node.attributes))
        inner.host, inner._aliases = set(), {}
        inputs = [*node.inputs, *([None] * (len(function.inputs) - len(node.inputs)))]
        given = [inner.define(value, host=False) for value in function.inputs]
        inner.nodes(function)
        program = inner.finish(given, function.outputs)
        mode = self.around.mode
        slots = [self.slot_of(value) for value in inputs]
        moves = tuple(
            place for place, value in enumerate(inputs) if value is not None and self.resolve(value) in self.host
        )
        self.drafts.append(
            Draft(
                lambda *arguments: tuple(program.run(arguments, mode.device)),
                [*slots, *self.captured(inner)],
                self.results(node, len(node.outputs), host=False),
                moves,
                label_of(node),
                node,
            )
        )

    def inner(self, graph: ir.Graph, host: Sequence[bool] = ()) -> Scope:
        """Compile a branch or a body; `host` says which of its inputs are in the CPU's memory."""
        scope = Scope(self.around, self)
        scope.given = [scope.define(value, host=stay) for value, stay in zip(graph.inputs, host, strict=True)]
        scope.nodes(graph)
        return scope

    def stays(self, value: ir.Value) -> bool:
        """Say whether a value is in the CPU's memory, or a constant that can be."""
        value = self.resolve(value)
        return value in self.host or self.is_known(value)

    def append(
        self, node: ir.Node, compute: Compute, slots: list[int], host: Sequence[bool], moves: tuple[int, ...]
    ) -> None:
        """Add a step whose outputs live where `host` says."""
        outputs = [self.define(value, host=stay) for value, stay in zip(node.outputs, host, strict=True)]
        self.drafts.append(Draft(compute, slots, outputs, moves, label_of(node), node))

    def captured(self, inner: Scope) -> list[int]:
        """Return the slots of what an inner scope reads from outside, in its order."""
        return [
            self.part(item) if isinstance(item, tuple) else self.slot_of(item, host=host)
            for item, host in inner.captures.values()
        ]

    # The end

    def finish(self, inputs: Sequence[int], outputs: Sequence[ir.Value], host: Sequence[bool] | None = None) -> Program:
        """Return the program: steps that nobody needs are dropped, and slots freed after their last use.

        Args:
            inputs: slots of the graph's inputs.
            outputs: the graph's outputs.
            host: which of them stay in the CPU's memory; None for all that are computed there.
        """
        meant = [self.resolve(value) for value in outputs]
        stays = [value in self.host for value in meant] if host is None else host
        results = tuple(self.slot_of(value, host=stay) for value, stay in zip(meant, stays, strict=True))
        moves = tuple(place for place, value in enumerate(meant) if value in self.host and not stays[place])
        needed, kept = set(results), []
        for draft in reversed(self.drafts):
            if needed.isdisjoint(draft.outputs):
                continue
            needed.update(draft.inputs)
            kept.append(draft)
        kept.reverse()
        given = (*inputs, *self.captures)
        return Program(self._count, given, results, _with_frees(kept, results, set(self.sources)), moves)


def _with_frees(drafts: Sequence[Draft], results: Sequence[int], sources: set[int]) -> list[Step]:
    last: dict[int, int] = {}
    for position, draft in enumerate(drafts):
        for slot in (*draft.inputs, *draft.outputs):
            last[slot] = position
    frees: list[list[int]] = [[] for _ in drafts]
    for slot, position in last.items():
        if slot != ABSENT and slot not in results and slot not in sources:
            frees[position].append(slot)
    return [
        Step(draft.compute, tuple(draft.inputs), tuple(draft.outputs), tuple(free), draft.moves, draft.label)
        for draft, free in zip(drafts, frees, strict=True)
    ]


def label_of(node: ir.Node) -> str:
    """Name a node as error messages do."""
    domain = f"{node.domain}::" if node.domain else ""
    return f"`{node.name}` ({domain}{node.op_type})"
