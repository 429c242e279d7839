"""The conversion process: what user code does to it never reaches this one, and it never outlives this one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mopt.passes.convert import worker
from mopt.passes.convert.torch_source import TorchSource
from mopt.runtime.contract import SourceError

MODELS = Path(__file__).parent / "models"

pytest.importorskip("torch")

PROGRAM = """
import sys
from pathlib import Path
from mopt.passes.convert.torch_source import TorchSource
from mopt.runtime.contract import SourceError
from mopt.values import Location, PythonRef, TensorType
if __name__ == "__main__":
    models, name, scratch = sys.argv[1:]
    source = TorchSource(PythonRef(Location("small.py", models), name), {"features": TensorType("f32", ("N", 6))},
                         exporter="torchscript")
    try:
        result = source.load(Path(scratch), 0)
    except KeyboardInterrupt:
        print("interrupted")
        raise SystemExit(130)
    print([str(info) for info in result.module.inputs], "torch" in sys.modules)
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return lambda name: [sys.executable, str(path), str(MODELS), name, str(scratch)]


def living(scratch):
    """Processes that convert into a folder of this test."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if str(scratch).encode() in command and b"mopt.passes.convert.child" in command:
                found.append(int(process.name))
    return found


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_prints_go_to_standard_error_and_torch_stays_out_of_this_process(program):
    done = subprocess.run(program("prints"), capture_output=True, text=True, check=True)
    assert done.stdout == "['features: f32[N, 6]'] False\n"
    for line in ("printed by the factory", "written to descriptor 1", "complained by the factory"):
        assert line in done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crashes", r"was killed by SIGSEGV while running `small.py:crashes`"),
        ("quits", r"ended with exit status 3 while running `small.py:quits`"),
        ("leaves", r"calls sys.exit\(7\)"),
    ],
)
def test_dying_factory_is_an_error_here(name, message, kit, tmp_path):
    with pytest.raises(SourceError, match=message):
        TorchSource(kit.factory(f"small.py:{name}"), kit.inputs(features="f32 N 6")).load(tmp_path, 0)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes under /proc")
@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_interruption_ends_the_conversion(how, status, program, tmp_path):
    parent = subprocess.Popen(program("sleeps"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    phase = tmp_path / "scratch" / worker.PHASE
    assert wait_for(lambda: phase.exists() and "sleeps" in phase.read_text())
    os.kill(parent.pid, how)
    assert parent.wait(timeout=20) == status
    assert wait_for(lambda: not living(tmp_path / "scratch"))
    assert not (tmp_path / "scratch" / worker.MODEL).exists()
    parent.stdout.close()


def test_missing_framework_names_the_extra():
    with pytest.raises(
        SourceError, match=r'`no_such_framework` is not installed here; run: pip install "mopt\[torch\]"'
    ):
        worker.need("torch", "no_such_framework")


def test_our_own_bug_is_no_source_error(kit, tmp_path):
    source = TorchSource(kit.factory("small.py:Mlp"), kit.inputs(features="f32 N 6"))
    with pytest.raises(worker.ConversionError, match="AttributeError"):
        worker.convert("mopt.passes.convert.worker:no_such_function", source, tmp_path, 0)


def test_source_modules_load_no_framework():
    code = (
        "import sys, json\n"
        "import mopt.passes.convert.torch_source, mopt.passes.convert.keras_source\n"
        "import mopt.passes.convert.savedmodel_source, mopt.passes.convert.onnx_source\n"
        "import mopt.passes.convert.options, mopt.passes.convert.opset\n"
        "heavy = ['torch', 'tensorflow', 'onnx', 'onnx_ir', 'numpy', 'onnxruntime', 'networkx']\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
