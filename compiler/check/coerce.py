"""Values of a recipe to the typed values of an option, with the exact place of whatever does not fit."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mopt.check import constants
from mopt.check.fitting import bounds_text, choice_names, fits, hint
from mopt.check.paths import check_location, is_python_reference, python_reference
from mopt.check.report import Report
from mopt.check.surroundings import FAILED, Failed, Site, Surroundings
from mopt.check.wording import expected, found, is_list, is_map
from mopt.grammar import syntax
from mopt.grammar.diagnostics import Label, nearest
from mopt.plugin import Option
from mopt.values import (
    DTYPES,
    DataRef,
    Location,
    LossRef,
    MetricRef,
    ModelRef,
    NofM,
    PythonRef,
    Ratio,
    TensorType,
)


def coerce_option(node: syntax.Value, option: Option, owner: str, around: Surroundings) -> Any:
    """Return the value of an option, or `FAILED`."""
    what = f"option `{option.name}` of `{owner}`"
    return Coercion(around).value(node, option.annotation, Site(what, option.minimum, option.maximum))


class Coercion:
    """Turns syntax into typed values."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._report = around.report

    def value(self, node: syntax.Value, annotation: Any, site: Site) -> Any:
        """Return `node` as a value of the annotated type, or `FAILED` after a report."""
        resolved = self._resolve(node, annotation, site)
        if isinstance(resolved, Failed):
            return FAILED
        node, site = resolved
        origin = typing.get_origin(annotation)
        if origin in (typing.Union, types.UnionType):
            return self._union(node, annotation, site)
        if origin is typing.Literal:
            return self._choice(node, annotation, site)
        if is_list(annotation):
            return self._list(node, annotation, site)
        if is_map(annotation):
            return self._map(node, annotation, site)
        return self._scalar(node, annotation, site)

    def _resolve(self, node: syntax.Value, annotation: Any, site: Site) -> tuple[syntax.Value, Site] | Failed:
        """Follow parameters and take the alternative of this variant."""
        while True:
            if isinstance(node, syntax.AnyValue):
                choices = self._around.choices
                if choices is not None and not node.alternatives:
                    return FAILED  # reported where the variants are made
                if choices is None or id(node) not in choices:
                    return site.error(
                        self._report,
                        "E0311",
                        "`any` stands where nothing can be varied",
                        node,
                        f"{site.what} takes one value",
                        help="alternatives stand in the options of a pipeline's steps, or for its parent",
                    )
                node = node.alternatives[choices[id(node)]]
                continue
            if isinstance(node, syntax.Reference) and len(node.parts) == 1 and node.slice is None:
                symbol = self._around.scope.get(node.text)
                if symbol and isinstance(symbol.node, syntax.Param) and node.text not in choice_names(annotation):
                    site = Site(site.what, site.minimum, site.maximum, site.via or node)
                    value = self._around.references.parameter(symbol)
                    if value is None:
                        return FAILED
                    node = value
                    continue
            return node, site

    def _mismatch(self, node: syntax.Value, annotation: Any, site: Site, help: str | None = None) -> Failed:
        wanted = expected(annotation)
        return site.error(
            self._report,
            "E0301",
            f"{site.what} takes {wanted}",
            node,
            f"found {found(node)}",
            help=help or hint(node, annotation),
        )

    def _union(self, node: syntax.Value, annotation: Any, site: Site) -> Any:
        arms = [arm for arm in typing.get_args(annotation) if arm is not type(None)]
        if len(arms) == 1:
            return self.value(node, arms[0], site)
        if isinstance(node, syntax.String) and PythonRef in arms and len(arms) > 1:
            # `"model.py:CRNN"` is never a file name, and `"model.onnx"` never a name in a file.
            python = is_python_reference(node.value)
            arms = [arm for arm in arms if (arm is PythonRef) == python] or arms
        fitting = [arm for arm in arms if fits(node, arm, self._around.scope)]
        if not fitting:
            return self._mismatch(node, annotation, site)
        for arm in fitting[:-1]:
            trial = Report()
            result = Coercion(replace(self._around, report=trial)).value(node, arm, site)
            if not isinstance(result, Failed):
                self._report.add(trial.diagnostics)
                return result
        return self.value(node, fitting[-1], site)

    def _choice(self, node: syntax.Value, annotation: Any, site: Site) -> Any:
        choices = typing.get_args(annotation)
        given: object = FAILED
        if isinstance(node, syntax.Reference) and node.slice is None:
            given = node.text
        elif isinstance(node, syntax.String | syntax.Boolean) or (isinstance(node, syntax.Number) and not node.unit):
            given = node.value
        for choice in choices:
            if given == choice and type(given) is type(choice):
                return choice
        texts = [str(choice) for choice in choices]
        close = nearest(str(given), texts) if given is not FAILED else None
        label = f"did you mean `{close}`?" if close else f"found {found(node)}"
        return site.error(self._report, "E0302", f"{site.what} takes {expected(annotation)}", node, label, help=None)

    def _list(self, node: syntax.Value, annotation: Any, site: Site) -> Any:
        arguments = typing.get_args(annotation)
        origin = typing.get_origin(annotation) or annotation
        make = list if origin is list else tuple
        fixed = origin is tuple and bool(arguments) and Ellipsis not in arguments
        inner = arguments[0] if arguments else Any
        if not isinstance(node, syntax.ListValue):
            if fixed or is_list(inner) or not fits(node, inner, self._around.scope):
                return self._mismatch(node, annotation, site)
            one = self.value(node, inner, site)  # a single value does for a list of one
            return one if isinstance(one, Failed) else make([one])
        if fixed and len(node.items) != len(arguments):
            return site.error(
                self._report,
                "E0301",
                f"{site.what} takes {expected(annotation)}",
                node,
                f"found {len(node.items)}",
            )
        types_ = arguments if fixed else [inner] * len(node.items)
        values = [self.value(item, type_, site) for item, type_ in zip(node.items, types_, strict=True)]
        return FAILED if any(isinstance(one, Failed) for one in values) else make(values)

    def _map(self, node: syntax.Value, annotation: Any, site: Site) -> Any:
        if not isinstance(node, syntax.MapValue):
            return self._mismatch(node, annotation, site)
        arguments = typing.get_args(annotation)
        inner = arguments[1] if arguments else Any
        result: dict[str, Any] = {}
        seen: dict[str, syntax.Entry] = {}
        failed = False
        for entry in node.entries:
            key = entry.key_text
            if key in seen:
                first = Label(seen[key].key.span, "first given here")
                site.error(self._report, "E0307", f"the key `{key}` stands twice in a map", entry.key, "again", [first])
                failed = True
            seen[key] = entry
            result[key] = self.value(entry.value, inner, site)
            failed = failed or isinstance(result[key], Failed)
        return FAILED if failed else result

    def _scalar(self, node: syntax.Value, annotation: Any, site: Site) -> Any:
        references = self._around.references
        if annotation in (Any, object):
            return self._anything(node, site)
        if annotation is DataRef:
            return references.data(node, site, self._around)
        if annotation is ModelRef:
            return references.model(node, site, self._around)
        if annotation is LossRef:
            return references.judge(node, "loss", site, self._around)
        if annotation is MetricRef:
            return references.judge(node, "metric", site, self._around)
        if isinstance(annotation, type) and hasattr(annotation, "from_syntax"):
            return annotation.from_syntax(node, site, self._around)
        if not fits(node, annotation, self._around.scope):
            return self._mismatch(node, annotation, site)
        if annotation is Location:
            assert isinstance(node, syntax.String)
            location = Location(node.value, str(self._around.base(node)))
            return location if check_location(location, node, site, self._report) else FAILED
        if annotation is PythonRef:
            assert isinstance(node, syntax.String)
            return python_reference(node, self._around.base(node), site, self._report)
        if annotation is TensorType:
            return self._tensor_type(node, site)
        if annotation is NofM:
            return self._nofm(node, site)
        if annotation in (str, bool):
            assert isinstance(node, syntax.String | syntax.Boolean)
            return node.value
        return self._number(node, annotation, site)

    def _number(self, node: syntax.Value, annotation: Any, site: Site) -> Any:
        assert isinstance(node, syntax.Number)
        value = annotation(constants.number(node))
        low, high = site.minimum, site.maximum
        code = "E0303"
        if annotation is Ratio:
            code = "E0304"
            low, high = (0.0 if low is None else low), (1.0 if high is None else high)
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = bounds_text(annotation, low, high)
            return site.error(self._report, code, f"{site.what} must be {bounds}", node, f"found {found(node)}")
        return value

    def _nofm(self, node: syntax.Value, site: Site) -> Any:
        assert isinstance(node, syntax.NofM)
        if not 0 < node.n <= node.m:
            return site.error(
                self._report,
                "E0305",
                f"`{node.n}:{node.m}` is no N of M",
                node,
                "N values of every M are kept: N is at least 1 and at most M",
            )
        return NofM(node.n, node.m)

    def _tensor_type(self, node: syntax.Value, site: Site) -> Any:
        assert isinstance(node, syntax.TensorValue)
        if node.dtype.text not in DTYPES:
            close = nearest(node.dtype.text, DTYPES)
            label = f"did you mean `{close}`?" if close else "not an element type"
            return site.error(
                self._report,
                "E0308",
                f"no element type is called `{node.dtype.text}`",
                node.dtype,
                label,
                help="element types are " + ", ".join(f"`{dtype}`" for dtype in DTYPES),
            )
        for dim in node.dims:
            if isinstance(dim, syntax.Number) and dim.value < 1:
                return site.error(
                    self._report,
                    "E0308",
                    "a dimension is at least 1",
                    dim,
                    f"found `{dim.text}`",
                    help="a dimension of any size is written as a name: `f32[N, 3]`",
                )
        return TensorType(node.dtype.text, constants.dimensions(node))

    def _anything(self, node: syntax.Value, site: Site) -> Any:
        match node:
            case syntax.ListValue():
                return self._list(node, tuple[Any, ...], site)
            case syntax.MapValue():
                return self._map(node, Mapping[str, Any], site)
            case syntax.TensorValue():
                return self._tensor_type(node, site)
            case syntax.NofM():
                return self._nofm(node, site)
            case syntax.Reference():
                return self._around.references.anything(node, site, self._around)
        return constants.plain(node)
