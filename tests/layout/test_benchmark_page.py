"""The benchmark page says what the kept results say."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "page.py"


def test_the_page_is_current():
    spec = importlib.util.spec_from_file_location("benchmark_page", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run python tests/benchmarks/page.py"
