"""Every rule's golden cases: what it makes of a graph, and when it must leave one alone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from mopt.ir import interface_changes, interface_of, verify
from mopt.passes.simplify.ruleset import RULES
from mopt.rewrite import apply_rules, explain_rule
from mopt.runtime.compare import compare_modules


def _sibling(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


golden_cases = _sibling("golden_cases")
CASES = [case for path in sorted(golden_cases.FOLDER.glob("*.txt")) for case in golden_cases.read(path)]
TOLERANCES = {"f16": 2e-3, "bf16": 2e-2, "f32": 2e-6, "f64": 1e-12}


def test_every_rule_has_a_case_that_fires_and_one_that_must_not():
    names = {rule.name for rule in RULES}
    fires = {case.rule for case in CASES if case.after is not None}
    spared = {case.rule for case in CASES if case.after is None}
    assert fires == names
    assert spared == names


@pytest.mark.parametrize("case", [case for case in CASES if case.after is not None], ids=str)
def test_rewrite(case):
    rule = next(rule for rule in RULES if rule.name == case.rule)
    before, module = case.module(), case.module()
    trace = apply_rules(module, [rule], by="test")
    assert case.rule in trace.counts
    assert trace.converged
    assert golden_cases.signature(module) == golden_cases.signature(case.module(case.after))
    assert verify(module) == []
    assert interface_changes(interface_of(before), interface_of(module)) == []
    dtypes = {info.dtype for info in before.outputs}
    tolerance = max(TOLERANCES.get(dtype, 0.0) for dtype in dtypes)
    assert compare_modules(before, module).within(tolerance)


@pytest.mark.parametrize("case", [case for case in CASES if case.after is None], ids=str)
def test_no_rewrite(case):
    rule = next(rule for rule in RULES if rule.name == case.rule)
    before, module = case.module(), case.module()
    trace = apply_rules(module, [rule], by="test")
    assert case.rule not in trace.counts
    assert golden_cases.signature(module) == golden_cases.signature(before)
    assert case.reason in explain_rule(case.rule, before, RULES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_rules_together_keep_the_outputs(case):
    before, module = case.module(), case.module()
    trace = apply_rules(module, RULES, by="test")
    assert trace.converged
    assert verify(module) == []
    if any("Random" in node.op_type for node in before.nodes()):
        return
    assert compare_modules(before, module).within(2e-5)
