"""The typed syntax tree of a recipe. Spans take no part in comparisons: two trees are equal if they say the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mopt.grammar.source import Source, Span


@dataclass(frozen=True, slots=True)
class Node:
    """Anything with a place."""

    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Name(Node):
    """An identifier, in Unicode's normal form C."""

    text: str


@dataclass(frozen=True, slots=True)
class Number(Node):
    """A number with its unit: `""` for none, `%` for a ratio. `value` is what stands before the unit."""

    value: int | float
    unit: str
    text: str


@dataclass(frozen=True, slots=True)
class NofM(Node):
    """`2:4`."""

    n: int
    m: int


@dataclass(frozen=True, slots=True)
class Boolean(Node):
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True, slots=True)
class String(Node):
    """A text, its escapes resolved."""

    value: str


@dataclass(frozen=True, slots=True)
class ListValue(Node):
    """`[a, b, c]`."""

    items: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Entry(Node):
    """One `key: value` of a map."""

    key: Name | String
    value: Value

    @property
    def key_text(self) -> str:
        """The key, however it was written."""
        return self.key.text if isinstance(self.key, Name) else self.key.value


@dataclass(frozen=True, slots=True)
class MapValue(Node):
    """`{a: 1, "b.c": 2}`."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class TensorValue(Node):
    """`f32[N, 3, 224, 224]`; a dimension is a size or the name of a dynamic one."""

    dtype: Name
    dims: tuple[Name | Number, ...]


@dataclass(frozen=True, slots=True)
class Slice(Node):
    """`[a:b]`; a bound is a number, the name of a parameter, or absent."""

    start: Name | Number | None
    stop: Name | Number | None


@dataclass(frozen=True, slots=True)
class Reference(Node):
    """A name (a symbol, a parameter, a declaration), a dotted path from one, or a slice of that."""

    parts: tuple[Name, ...]
    slice: Slice | None = None

    @property
    def text(self) -> str:
        """The dotted path."""
        return ".".join(part.text for part in self.parts)


@dataclass(frozen=True, slots=True)
class AnyValue(Node):
    """`any(a, b, c)`."""

    alternatives: tuple[Value, ...]


Value = Number | NofM | Boolean | String | ListValue | MapValue | TensorValue | Reference | AnyValue


@dataclass(frozen=True, slots=True)
class Argument(Node):
    """`name=value`, or a value by position."""

    name: Name | None
    value: Value


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`family.technique(…)`: a pass, a source, a target …"""

    path: tuple[Name, ...]
    arguments: tuple[Argument, ...]
    opening: Span = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        """The dotted name."""
        return ".".join(part.text for part in self.path)

    @property
    def name_span(self) -> Span:
        """Where the dotted name stands."""
        return self.path[0].span.to(self.path[-1].span)


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """An arithmetic expression of a condition. Operators of one rank associate to the left."""

    operator: Literal["+", "-", "*", "/"]
    left: Expression
    right: Expression


Expression = Number | Reference | Binary


@dataclass(frozen=True, slots=True)
class Require(Node):
    """`require LEFT OP RIGHT`, or with `on TARGET` after it."""

    left: Expression
    operator: Literal["<=", ">=", "<", ">", "==", "!="]
    right: Expression
    target: Name | None = None


@dataclass(frozen=True, slots=True)
class PassStep(Node):
    """One pass of a pipeline."""

    call: Call


Step = PassStep | Require


@dataclass(frozen=True, slots=True)
class Title(Node):
    """`recipe "title"`."""

    title: String


@dataclass(frozen=True, slots=True)
class Import(Node):
    """`import "common.mopt"`."""

    path: String


@dataclass(frozen=True, slots=True)
class Seed(Node):
    """`seed 7`."""

    value: Value


@dataclass(frozen=True, slots=True)
class Param(Node):
    """`param NAME = VALUE`."""

    name: Name
    value: Value


DeclarationKind = Literal["model", "data", "loss", "metric", "app", "target"]


@dataclass(frozen=True, slots=True)
class Declaration(Node):
    """`KIND NAME = PLUGIN(…)`."""

    kind: DeclarationKind
    name: Name
    call: Call


@dataclass(frozen=True, slots=True)
class Settings(Node):
    """`evaluate(…)` or `profile(…)`; `call` has the keyword as its name."""

    kind: Literal["evaluate", "profile"]
    call: Call


@dataclass(frozen=True, slots=True)
class Pipeline(Node):
    """`pipeline NAME = PARENT { STEPS }`. `header` ends with the opening brace."""

    name: Name
    parent: Reference | AnyValue
    steps: tuple[Step, ...]
    header: Span = field(compare=False, repr=False)


Statement = Title | Import | Seed | Param | Declaration | Settings | Pipeline


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """One recipe file. `comments` are its comments in order, each with the `#`."""

    source: Source = field(compare=False, repr=False)
    statements: tuple[Statement, ...]
    comments: tuple[Span, ...] = field(compare=False, repr=False)
