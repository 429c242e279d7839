"""What `mopt doctor` is told."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
from mopt.runtime import doctor
from mopt.runtime.doctor import report
from mopt.runtime.trt import library as trt_library


@pytest.fixture
def checks():
    return {check.name: check for check in report()}


def test_versions_are_the_installed_ones(checks):
    assert checks["onnx"].state == "ok"
    assert version("onnx") in checks["onnx"].detail


def test_every_target_and_provider_is_there(checks):
    assert {"ort", "trt", "ort(provider=cuda)", "ort(provider=tensorrt)"} <= set(checks)
    assert checks["ort"].state == "ok"


def test_what_is_not_there_comes_with_what_to_do(checks):
    for check in checks.values():
        assert check.state == "ok" or check.install, check


def test_a_missing_package_is_missing(monkeypatch):
    def absent(package):
        if package in ("torch", "safetensors", "tf2onnx", "jiwer"):
            raise PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(doctor, "version", absent)
    monkeypatch.setattr(trt_library, "_installed", lambda library: False)
    found = {check.name: check for check in report()}
    assert (found["torch models and losses"].state, found["torch models and losses"].install) == (
        "missing", "pip install 'mopt[torch]'",
    )  # fmt: skip
    assert found["Keras models and SavedModels"].state == "limited"
    assert "tf2onnx is missing" in found["Keras models and SavedModels"].detail
    assert found["jiwer"].install == "pip install jiwer"
    assert found["trt"].state == "missing"


def test_no_framework_is_imported():
    code = (
        "import sys, json; from mopt.runtime.doctor import report; json.dumps([c.to_json() for c in report()]); "
        "print(json.dumps(list(sys.modules)))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
    assert not {"torch", "tensorflow", "keras", "tensorrt_rtx", "sklearn", "jiwer", "PIL"} & set(loaded)
