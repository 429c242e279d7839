"""Names in values: parameters, data, models and pipelines, losses and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mopt.check.scope import KIND_WORDS, Scope, Symbol
from mopt.check.surroundings import FAILED, Failed, Site, Surroundings
from mopt.check.wording import found
from mopt.grammar import syntax
from mopt.grammar.diagnostics import nearest
from mopt.grammar.format import value_text
from mopt.values import DataRef, LossRef, MetricRef, ModelRef

_GROUPS = {"loss": "losses", "metric": "metrics"}


@dataclass(frozen=True)
class Variant:
    """One expansion of a pipeline, as far as references need it."""

    name: str
    declared: str
    choices: Mapping[int, int]


class References:
    """Resolves names.

    Attributes:
        here: the pipeline being checked: what is declared after it can't be referred to.
        parent: what the variant being checked starts from, which `parent` means there; "" if that is wrong.
    """

    def __init__(
        self, scope: Scope, overridden: Mapping[str, syntax.Value], unsound: frozenset[str] = frozenset()
    ) -> None:
        self._scope = scope
        self._overridden = overridden
        self._unsound = unsound
        self.variants: dict[str, list[Variant]] = {}
        self.here: Symbol | None = None
        self.parent: str | None = None
        self.use_builtin: Callable[[str, str, syntax.Reference], bool] = lambda *_: True

    def parameter(self, symbol: Symbol) -> syntax.Value | None:
        """Return the value of a parameter, as `--set` has it or else its default; None if that is no constant."""
        assert isinstance(symbol.node, syntax.Param)
        if symbol.name in self._unsound:
            return None
        return self._overridden.get(symbol.name, symbol.node.value)

    def data(self, node: syntax.Value, site: Site, around: Surroundings) -> DataRef | Failed:
        """Resolve `NAME`, `NAME.SPLIT` or `NAME.SPLIT[a:b]`."""
        symbol = self._symbol(node, ("data",), "data", site, around)
        if not isinstance(symbol, Symbol):
            return symbol
        assert isinstance(node, syntax.Reference)
        if len(node.parts) > 2:
            message = "a split has no parts"
            return site.error(around.report, "E0309", message, node.parts[2], f"write `{symbol.name}.SPLIT`")
        split = node.parts[1].text if len(node.parts) > 1 else None
        if node.slice is None:
            return DataRef(symbol.name, split)
        if split is None:
            message = "a slice is taken of a split"
            return site.error(around.report, "E0309", message, node, f"write `{symbol.name}.SPLIT[a:b]`")
        start = self._bound(node.slice.start, site, around)
        stop = self._bound(node.slice.stop, site, around)
        if start is False or stop is False:
            return FAILED
        if stop is not None and stop <= (start or 0):
            message = f"`{value_text(node)}` is empty"
            return site.error(around.report, "E0309", message, node.slice, "the end must lie behind the start")
        return DataRef(symbol.name, split, start, stop)

    def _bound(self, node: syntax.Name | syntax.Number | None, site: Site, around: Surroundings) -> Any:
        """Return a bound of a slice, None where there is none, False where it is wrong."""
        if node is None:
            return None
        if isinstance(node, syntax.Number):
            return int(node.value)
        symbol = self._scope.get(node.text)
        value = self.parameter(symbol) if symbol and isinstance(symbol.node, syntax.Param) else None
        if symbol is not None and value is None and symbol.kind == "param":
            return False  # what is wrong with it is reported
        value = around.chosen(value) if value is not None else None
        if isinstance(value, syntax.Number) and isinstance(value.value, int) and not value.unit and value.value >= 0:
            return value.value
        if symbol is None and self._scope.may_exist(node.text):
            return False
        label = self._scope.suggestion(node.text, ("param",)) if symbol is None else "not a whole number"
        secondary = [symbol.label] if symbol else []
        message = f"`{node.text}` is no bound of a slice"
        site.error(
            around.report, "E0309", message, node, label, secondary, "a bound is a number or a parameter that is one"
        )
        return False

    def model(self, node: syntax.Value, site: Site, around: Surroundings) -> ModelRef | Failed:
        """Resolve a model or an earlier pipeline."""
        if self.parent is not None and isinstance(node, syntax.Reference) and self._is_parent(node):
            return ModelRef(self.parent) if self.parent else FAILED
        symbol = self._symbol(node, ("model", "pipeline"), "a model or a pipeline", site, around)
        if not isinstance(symbol, Symbol):
            return symbol
        assert isinstance(node, syntax.Reference)
        if len(node.parts) > 1 or node.slice is not None:
            return self._undivided(node, symbol, site, around)
        if symbol.kind == "model":
            return ModelRef(symbol.name)
        name = self.variant(symbol, node, site, around)
        return ModelRef(name) if name is not None else FAILED

    def _is_parent(self, node: syntax.Reference) -> bool:
        return node.text == "parent" and node.slice is None and self._scope.get("parent") is None

    def variant(self, symbol: Symbol, node: syntax.Reference, site: Site, around: Surroundings) -> str | None:
        """Return the name of the expansion of a pipeline that a reference means."""
        if self.here is not None and symbol.order >= self.here.order:
            itself = symbol.name == self.here.name
            message = f"`{symbol.name}` can't use itself" if itself else f"`{symbol.name}` is declared further down"
            code = "E0401" if itself else "E0402"
            label = "used before it is declared" if not itself else "still being made here"
            site.error(around.report, code, message, node, label, [] if itself else [symbol.label])
            return None
        known = self.variants.get(symbol.name)
        if not known:  # its own errors are reported where it stands
            return symbol.name
        mine = around.choices or {}
        agreeing = [one for one in known if all(mine.get(key, index) == index for key, index in one.choices.items())]
        if len(agreeing) == 1:
            return agreeing[0].name
        names = ", ".join(f"`{one.name}`" for one in known[:6]) + (", …" if len(known) > 6 else "")
        site.error(
            around.report,
            "E0406",
            f"`{symbol.name}` stands for {len(known)} variants",
            node,
            "one is needed here",
            [symbol.label],
            f"it expands to {names}: declare the one that is meant as a pipeline of its own",
        )
        return None

    def judge(self, node: syntax.Value, kind: str, site: Site, around: Surroundings) -> Any:
        """Resolve a loss, or a metric (which a loss may serve as), declared or built in."""
        make = LossRef if kind == "loss" else MetricRef
        kinds = ("loss",) if kind == "loss" else ("metric", "loss")
        if isinstance(node, syntax.Reference) and self._scope.get(node.parts[0].text) is None:
            name = node.text
            for one in kinds:
                if around.registry.has(_GROUPS[one], name) and node.slice is None:
                    return make(name) if self.use_builtin(one, name, node) else FAILED
        builtin = [name for one in kinds for name in around.registry.names(_GROUPS[one])]
        symbol = self._symbol(node, kinds, KIND_WORDS[kind], site, around, builtin)
        if not isinstance(symbol, Symbol):
            return symbol
        assert isinstance(node, syntax.Reference)
        if len(node.parts) > 1 or node.slice is not None:
            return self._undivided(node, symbol, site, around)
        return make(symbol.name)

    def anything(self, node: syntax.Reference, site: Site, around: Surroundings) -> Any:
        """Resolve a name where any value may stand."""
        symbol = self._scope.get(node.parts[0].text)
        if symbol is None:
            if self._scope.may_exist(node.parts[0].text):
                return FAILED
            label = self._scope.suggestion(node.parts[0].text, ("param", "data", "model", "pipeline", "loss", "metric"))
            return site.error(
                around.report,
                "E0201",
                f"nothing is called `{node.parts[0].text}`",
                node,
                label,
                help=f'a text is quoted: `"{node.text}"`',
            )
        if symbol.kind == "data":
            return self.data(node, site, around)
        if symbol.kind in ("model", "pipeline"):
            return self.model(node, site, around)
        if symbol.kind in ("loss", "metric"):
            return self.judge(node, symbol.kind, site, around)
        return self._wrong_kind(node, symbol, "a value", site, around)

    def _symbol(
        self,
        node: syntax.Value,
        kinds: tuple[str, ...],
        wanted: str,
        site: Site,
        around: Surroundings,
        builtin: list[str] | None = None,
    ) -> Symbol | Failed:
        if not isinstance(node, syntax.Reference):
            return site.error(around.report, "E0301", f"{site.what} takes {wanted}", node, f"found {found(node)}")
        name = node.parts[0].text
        symbol = self._scope.get(name)
        if symbol is None:
            if self._scope.may_exist(name):
                return FAILED
            label = self._scope.suggestion(name, kinds, builtin or ())
            return site.error(around.report, "E0201", f"no {_bare(wanted)} is called `{name}`", node.parts[0], label)
        if symbol.kind not in kinds:
            return self._wrong_kind(node, symbol, wanted, site, around)
        return symbol

    def _wrong_kind(
        self, node: syntax.Reference, symbol: Symbol, wanted: str, site: Site, around: Surroundings
    ) -> Failed:
        return site.error(
            around.report,
            "E0306",
            f"{site.what} takes {wanted}",
            node,
            f"`{symbol.name}` is {KIND_WORDS[symbol.kind]}",
            [symbol.label],
        )

    def _undivided(self, node: syntax.Reference, symbol: Symbol, site: Site, around: Surroundings) -> Failed:
        word = KIND_WORDS[symbol.kind]
        message = f"`{symbol.name}` is {word} and has no parts"
        return site.error(around.report, "E0306", message, node, f"write `{symbol.name}`", [symbol.label])


def _bare(words: str) -> str:
    return {"data": "data set"}.get(words, words.removeprefix("a ").replace(" or a ", " or "))


def closest_pass(name: str, known: tuple[str, ...]) -> str | None:
    """Return the pass that a name most likely means: `magnitude` is `prune.magnitude`."""
    ends = {one.rpartition(".")[2]: one for one in known}
    close = nearest(name, known)
    if close is None and (end := nearest(name.rpartition(".")[2], ends)):
        close = ends[end]
    return close
