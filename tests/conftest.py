"""Fixtures that several parts share."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

with contextlib.suppress(ImportError):  # the tests for a GPU run on machines that have little installed
    import hypothesis

    # CI runs the same examples every time; at a desk, new ones are drawn.
    hypothesis.settings.register_profile("ci", derandomize=True)
    if os.environ.get("CI"):
        hypothesis.settings.load_profile("ci")

# A shell without job control starts background commands with SIGINT ignored, and every child inherits that: the
# tests of interruptions then wait for an interruption that never comes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path, config):
    """Of `-m gpu`, open only the files that have such tests: others need packages that such a machine may lack."""
    if config.getoption("markexpr") != "gpu" or not collection_path.name.startswith("test_"):
        return None
    return True if "mark.gpu" not in collection_path.read_text(encoding="utf-8") else None


EXAMPLE = Path(__file__).parent / "plugin" / "example"


@pytest.fixture(scope="session")
def example_site(tmp_path_factory):
    """The example plug-in package, really built and installed into a folder of its own."""
    base = tmp_path_factory.mktemp("plugin")
    source = base / "source"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
    target = base / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, capture_output=True)
    return target


@pytest.fixture
def mopt_command():
    """Run the command line in a process of its own: `mopt_command(*arguments, cwd=…, sites=…)`."""

    def run(*arguments, cwd=None, sites=(), **extra):
        environment = environment_with(sites)
        return subprocess.run(
            [sys.executable, "-m", "mopt.cli.main", *map(str, arguments)],
            env=environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            **extra,
        )

    return run


def environment_with(sites):
    """The environment with folders of installed packages put first on the path, and onnxruntime on one thread."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sites)), "OMP_NUM_THREADS": "1"}
