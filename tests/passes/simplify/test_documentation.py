from pathlib import Path

from mopt.passes.simplify.ruleset import RULES

PAGE = Path(__file__).parents[3] / "docs" / "rewriting.md"


def test_every_rule_is_documented_with_its_algebra_and_opset():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    expected = {
        f"| `{rule.name}` | {rule.algebra.replace('|', chr(92) + '|')} | {rule.opset if rule.opset > 1 else ''} |"
        for rule in RULES
    }
    assert set(rows) == expected
