"""The public API is what `mopt.__all__` says, all of it is there, and it is documented."""

import inspect
import subprocess
import sys

import mopt

PUBLIC = {
    "Diff",
    "Module",
    "Results",
    "__version__",
    "check_recipe",
    "compile_recipe",
    "diff_models",
    "load_model",
    "save_model",
}


def test_the_surface_is_guarded():
    assert set(mopt.__all__) == PUBLIC
    assert set(dir(mopt)) == PUBLIC


def test_everything_is_there_and_documented():
    for name in PUBLIC - {"__version__"}:
        assert inspect.getdoc(getattr(mopt, name)), name


def test_importing_costs_nothing():
    program = (
        "import sys, mopt; print(sorted(n for n in ('numpy', 'onnx', 'click', 'lark', 'rich') if n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
