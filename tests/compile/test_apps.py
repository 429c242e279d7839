"""An app: one program that runs several compressed models is judged and timed as a row of its own."""

import pytest

PROGRAM = """
import numpy as np

class Twice:
    def __init__(self, first, second, scale=1.0):
        self.first, self.second, self.scale = first, second, scale

    def __call__(self, sample):
        batch = {"x": sample["x"][None]}
        y = self.first(batch)["y"][0] + self.second(batch)["y"][0]
        return {"y": self.scale * y}

class Broken(Twice):
    def __call__(self, sample):
        raise KeyError("boom")

class Wrong(Twice):
    def __call__(self, sample):
        return 3
"""

HEAD = """
model linear = example(size=64)
data noise = random(inputs={x: f32[N, 64]}, samples=8, classes=3)
evaluate(data=noise.test, metrics=[largest])
evaluate(data=noise.test, metrics=[largest], pipelines=["both", "scaled"])
profile(batch=[1], runs=6, warmup=1)
pipeline plain = linear { }
pipeline half = plain { prune.magnitude(amount=50%) }
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "app.py").write_text(PROGRAM, encoding="utf-8")


@pytest.mark.usefixtures("program")
def test_an_app_is_judged_and_timed_end_to_end(compiled):
    apps = """
    app both = python("app.py:Twice", first=plain, second=half)
    app scaled = python("app.py:Twice", first=plain, second=half, scale=10.0)
    """
    rows = compiled.rows(compiled(apps, head=HEAD, profile="auto"))
    assert rows["both"].bytes == rows["plain"].bytes + rows["half"].bytes
    assert rows["both"].parameters == 384
    assert rows["both"].macs is None  # how often a part runs depends on the data
    assert rows["scaled"].metrics["largest"] == pytest.approx(10 * rows["both"].metrics["largest"])
    assert rows["both"].latency[1].median > 0
    assert rows["scaled"].baseline == "both"
    assert rows["scaled"].latency[1].ratio > 0


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(("kind", "said"), [("Broken", "KeyError: 'boom'"), ("Wrong", "a mapping of outputs")])
def test_a_broken_app_is_told_in_its_own_terms(compiled, kind, said):
    apps = f'app both = python("app.py:{kind}", first=plain, second=half)'
    head = HEAD.replace(', "scaled"', "")
    results = compiled(apps, head=head)
    rows = compiled.rows(results)
    assert rows["both"].status == "failed"
    assert said in rows["both"].failure.message
    assert rows["plain"].status == "ok"
    assert results.exit_status == 3
