"""Compiling in this process, with the example plug-in's passes beside the built-in ones."""

import sys
from pathlib import Path

import pytest
from mopt.build.progress import PlainReporter
from mopt.driver import CompileOptions, compile_recipe
from mopt.plugin import default_registry

SOURCE = Path(__file__).resolve().parents[1] / "plugin" / "example" / "src"
PASSES = {
    "example.negate": "mopt_example:Negate",
    "example.slow": "mopt_example:Slow",
    "example.misbehave": "mopt_example:Misbehave",
    "example.dense": "mopt_example:Dense",
}

HEAD = """
model linear = example(size=64)
data noise = random(inputs={x: f32[N, 64]}, samples=8, classes=3)
evaluate(data=noise.test, metrics=[largest])
profile(batch=[1], runs=6, warmup=1)
"""


@pytest.fixture(scope="session")
def registry():
    sys.path.insert(0, str(SOURCE))
    base = default_registry()
    extended = base.extended("passes", PASSES).extended("sources", {"example": "mopt_example:Linear"})
    yield extended.extended("metrics", {"largest": "mopt_example:Largest"}).extended(
        "targets", {"example": "mopt_example:Folder"}
    )
    sys.path.remove(str(SOURCE))


class Compile:
    """Write a recipe, compile it, keep what was said on the way."""

    def __init__(self, folder, registry):
        self.folder, self.registry = folder, registry
        self.log = ""

    def __call__(self, body, *, head=HEAD, **options):
        path = self.folder / "r.mopt"
        path.write_text(head + body, encoding="utf-8")
        log = (self.folder / "log.txt").open("w", encoding="utf-8")
        settings = CompileOptions(
            **{"profile": "never", "store": self.folder / "store", "output": self.folder / "out", **options}
        )
        try:
            return compile_recipe(path, settings, PlainReporter(log), self.registry)
        finally:
            log.close()
            self.log = (self.folder / "log.txt").read_text(encoding="utf-8")

    @staticmethod
    def rows(results):
        return {row.pipeline: row for row in results.rows}


@pytest.fixture
def compiled(tmp_path, registry):
    return Compile(tmp_path, registry)
