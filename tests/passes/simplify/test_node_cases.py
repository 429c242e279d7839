"""ONNX's own node test cases: wherever the rules change one, it computes what it computed before."""

import warnings

import numpy as np
import onnxruntime as ort
import pytest
from mopt.ir import from_proto, interface_changes, interface_of, to_proto, verify
from mopt.passes.simplify.ruleset import RULES
from mopt.rewrite import apply_rules


def _cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return [case for case in collect_testcases(None) if case.model is not None]


def _run(data, feeds):
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"]).run(None, feeds)


def _feeds(case):
    values = case.data_sets[0][0]
    names = [value.name for value in case.model.graph.input]
    if not all(isinstance(value, np.ndarray) for value in values):
        return None  # sequences and optionals
    return dict(zip(names, values, strict=False))


def test_node_cases_compute_the_same():
    changed, compared, problems = 0, 0, []
    for case in _cases():
        try:
            before = from_proto(type(case.model).FromString(case.model.SerializeToString()))
        except Exception as error:  # what can't be loaded is another test's business
            assert "LoadError" in type(error).__name__, (case.name, error)
            continue
        module = before.clone()
        trace = apply_rules(module, RULES, by="test")
        if not trace.converged:
            problems.append(f"{case.name}: no fixed point")
        if not trace.applied:
            continue
        changed += 1
        if interface_changes(interface_of(before), interface_of(module)):
            problems.append(f"{case.name}: {interface_changes(interface_of(before), interface_of(module))}")
        if verify(module) and not verify(before):
            problems.append(f"{case.name}: {verify(module)[0].message}")
        feeds = _feeds(case)
        if feeds is None or any("Random" in node.op_type or node.op_type == "Bernoulli" for node in before.nodes()):
            continue
        try:
            expected = _run(case.model.SerializeToString(), feeds)
        except Exception:
            continue
        try:
            actual = _run(to_proto(module).SerializeToString(), feeds)
        except Exception as error:
            problems.append(f"{case.name}: {str(error)[:200]} after {list(trace.counts)}")
            continue
        compared += 1
        for one, other in zip(expected, actual, strict=True):
            if not isinstance(one, np.ndarray):
                continue
            half = one.dtype == np.float16
            same = one.dtype == other.dtype and one.shape == other.shape
            if one.dtype.kind in "fc":
                same = same and np.allclose(
                    one, other, rtol=2e-3 if half else 1e-4, atol=2e-3 if half else 1e-5, equal_nan=True
                )
            else:
                same = same and np.array_equal(one, other)
            if not same:
                problems.append(f"{case.name}: another result after {list(trace.counts)}")
    assert problems == []
    assert changed > 100
    assert compared > 100


if __name__ == "__main__":
    pytest.main([__file__])
