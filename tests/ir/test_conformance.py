"""ONNX's own node test cases: what the IR loads and saves gives what the untouched model gives.

Every case is written to a file, loaded, saved, and run by onnxruntime beside the original: outputs are bitwise equal,
and where onnxruntime refuses the original it refuses the copy for the same reason.
"""

from __future__ import annotations

import ctypes
import tempfile
import warnings
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import mopt.ir
import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import pytest

LEAST_CASES = 1800
"""onnx 1.23 ships 1,884; a drop means that they were not collected."""

LATEST_IR = 13
"""The newest IR version that onnxruntime 1.31 reads."""

LEAST_RUN = 1550
"""How many of them onnxruntime 1.31 runs (the others are refused: new types, missing kernels)."""


@cache
def cases() -> dict[str, list[Any]]:
    """Return the test cases by operator."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    grouped: dict[str, list[Any]] = defaultdict(list)
    for case in found:
        # onnxruntime lags behind onnx's newest file version, which changes nothing that these cases use.
        case.model.ir_version = min(case.model.ir_version, LATEST_IR)
        grouped[case.model.graph.node[0].op_type].append(case)
    return dict(grouped)


def groups() -> list[str]:
    """Return initial letters: few enough to keep reports short, many enough to say where it broke."""
    return sorted({name[0] for name in cases()})


@pytest.fixture(autouse=True)
def newest_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let onnxruntime run cases of the opset under development, too, where it has the kernels."""
    monkeypatch.setenv("ALLOW_RELEASED_ONNX_OPSET_ONLY", "0")


def test_all_cases_are_there() -> None:
    assert sum(len(group) for group in cases().values()) >= LEAST_CASES


RUN: dict[str, int] = {}


@pytest.mark.parametrize("initial", groups())
def test_round_trip_gives_the_same(initial: str) -> None:
    failures: list[str] = []
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        original, copy = Path(folder) / "original.onnx", Path(folder) / "copy.onnx"
        for operator, group in cases().items():
            if operator[0] != initial:
                continue
            for case in group:
                original.write_bytes(case.model.SerializeToString())
                module = mopt.ir.load(original)
                violations = mopt.ir.verify(module)
                if violations:
                    failures.append(f"{case.name}: {violations[0]}")
                mopt.ir.save(module, copy)
                feeds = feeds_of(case)
                expected, actual = run(original, feeds), run(copy, feeds)
                count += not isinstance(expected, str)
                if not same(expected, actual):
                    failures.append(f"{case.name}: {shown(expected)} became {shown(actual)}")
    RUN[initial] = count
    assert not failures, "\n".join(failures)


def test_most_cases_were_run() -> None:
    if set(RUN) != set(groups()):
        pytest.skip("only meaningful after all groups of this file")
    assert sum(RUN.values()) >= LEAST_RUN


def feeds_of(case: Any) -> dict[str, Any]:
    """Return the inputs of a case as onnxruntime takes them."""
    inputs, _ = case.data_sets[0]
    feeds: dict[str, Any] = {}
    for info, value in zip(case.model.graph.input, inputs, strict=False):
        if isinstance(value, onnx.TensorProto):
            value = onnx.numpy_helper.to_array(value)
        elif isinstance(value, onnx.SequenceProto):
            value = onnx.numpy_helper.to_list(value)
        elif isinstance(value, onnx.OptionalProto):
            value = onnx.numpy_helper.to_optional(value)
        feeds[info.name] = np.asarray(value) if isinstance(value, np.generic) else value
    return feeds


EXTENSIONS = ("bfloat16", "float8", "float4", "int4", "int2)")
"""Element types that numpy lacks: their tensors pass through onnxruntime's own values."""


def ort_value(array: np.ndarray[Any, Any]) -> ort.OrtValue:
    """Hand an array to onnxruntime; numpy's extension types (bfloat16, int4) as what they are."""
    tensor = onnx_ir.tensor(array)
    value = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, int(tensor.dtype))
    body = tensor.tobytes()
    ctypes.memmove(value.data_ptr(), body, len(body))
    return value


def contents(value: ort.OrtValue) -> Any:
    """Return the type, the shape and the bytes of an output."""
    body = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes()) if all(value.shape()) else b""
    return value.data_type(), value.shape(), body


def run(path: Path, feeds: dict[str, Any]) -> list[Any] | str:
    """Return the outputs, or the kind of error that onnxruntime gives."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        types = {info.type for info in [*session.get_inputs(), *session.get_outputs()]}
        if any(extension in kind for kind in types for extension in EXTENSIONS):
            values = {name: ort_value(array) for name, array in feeds.items()}
            return [contents(value) for value in session.run_with_ort_values(None, values)]
        return list(session.run(None, feeds))
    except Exception as error:
        return f"{type(error).__name__}: {str(error).replace(str(path), '')[:60]}"


def same(expected: Any, actual: Any) -> bool:
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(same(a, b) for a, b in zip(expected, actual, strict=True))
    if isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray):
        if expected.dtype != actual.dtype or expected.shape != actual.shape:
            return False
        return (
            expected.tolist() == actual.tolist() if expected.dtype == object else expected.tobytes() == actual.tobytes()
        )
    if isinstance(expected, str) and isinstance(actual, str):
        return expected == actual
    return type(expected) is type(actual) and bool(expected == actual)


def shown(outcome: Any) -> str:
    return outcome if isinstance(outcome, str) else f"{len(outcome)} outputs"
