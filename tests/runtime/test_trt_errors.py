"""What can be wrong with engines, drivers and timing caches: one clear line each, and exit status 4."""

from __future__ import annotations

import enum
import json
from types import SimpleNamespace

import pytest
from mopt.build.outcome import EXIT_TARGET
from mopt.cli.errors import status_of
from mopt.ir import provenance
from mopt.runtime.contract import Artifact, TargetError
from mopt.runtime.trt import engine as trt_engine
from mopt.runtime.trt import library as trt_library
from mopt.runtime.trt import timing
from mopt.runtime.trt.build import _timings
from mopt.runtime.trt.cuda_driver import CudaDriver
from mopt.runtime.trt.library import Found
from mopt.runtime.trt.opening import check_facts, check_validity, engine_facts
from mopt.runtime.trt.parts import read_parts
from mopt.runtime.trt.refit import refit_weights
from mopt.runtime.trt.refusal import readable, refusal
from mopt.runtime.trt.target import TrtTarget
from onnx import TensorProto, helper

F = TensorProto.FLOAT


@pytest.mark.parametrize(
    ("message", "operator", "told"),
    [
        ("false", "Det", "it has no operator Det"),
        (
            'creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
            "Foo",
            "no operator Foo",
        ),
        ('a == 0 && "Coupled gates are unsupported"', "LSTM", "Coupled gates are unsupported"),
        (
            "Invalid Node - a\nITensor::getDimensions: Error Code 4: API Usage Error (a: SUM requires kFLOAT. "
            "But type is UInt8. In validateTypes at /_src/nodes/elementWiseNode.cpp:72)\n[checkMacros.cpp::catchCuda"
            "Error::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/m.cpp:250 (cudaError 35: CUDA driver))",
            "Add",
            "a: SUM requires kFLOAT. But type is UInt8.",
        ),
        ("", "", "it gives no reason"),
    ],
)
def test_refusals_can_be_read(message, operator, told):
    found = readable(message, operator)
    assert told in found
    assert "/_src" not in found and "Error Code" not in found and "&&" not in found


def test_every_refused_node_is_named_with_its_layer_and_step(build, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="needs the `tensorrt-rtx` extra")
    nodes = [
        helper.make_node("Relu", ["x"], ["h"], name="first"),
        helper.make_node("Det", ["h"], ["d"], name="culprit"),
        helper.make_node("Bernoulli", ["d"], ["y"], name="other"),
    ]
    module = build(nodes, [("x", F, [2, 3, 3])], [("y", F, [2])])
    provenance.stamp_source(module)
    by_name = {node.name: node for node in module.nodes()}
    provenance.inherit([by_name["culprit"]], [by_name["first"]], "prune.channels/cut")
    with pytest.raises(TargetError) as caught:
        TrtTarget(library="tensorrt_rtx").emit(module, tmp_path)
    said = str(caught.value)
    assert "node `culprit` (Det) of layer `first`" in said and "made by `prune.channels`" in said
    assert "it has no operator Det" in said and "node `other` (Bernoulli): it has no operator Bernoulli" in said
    assert "partition=true" in caught.value.help


def test_an_input_of_a_type_it_lacks_is_named(build, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="needs the `tensorrt-rtx` extra")
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=F)]
    module = build(nodes, [("x", TensorProto.INT16, [2])], [("y", F, [2])])
    with pytest.raises(TargetError, match="input `x` is i16: Failed to convert ONNX data type"):
        TrtTarget(library="tensorrt_rtx").emit(module, tmp_path)


def test_a_layer_that_the_builder_names_is_found(cnn):
    node = next(node for node in cnn.nodes() if node.op_type == "Conv")
    answer = {"stage": "build", "library_version": "1", "errors": [
        {"node": "", "operator": "", "message": f"Error Code 4: Internal (layer {node.name}_out has no kernel)"},
    ]}  # fmt: skip
    assert f"node `{node.name}` (Conv)" in str(refusal("tensorrt", answer, cnn))


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "model.engine"
    path.write_bytes(b"the engine's bytes")
    facts = {
        "built_by": {"mopt": "1", "tensorrt_rtx": "1.7.1.116"},
        "capabilities": ["sm80", "sm89"],
        "engine": {"sha256": trt_engine.digest([path])},
        "settings": {},
    }
    path.with_name("model.engine.json").write_text(json.dumps(facts))
    return path


def check(engine, *, data=None, library="tensorrt_rtx", version="1.7.1.116", capability=(8, 9), **settings):
    facts = engine_facts(engine)
    facts["settings"] |= settings
    check_facts(engine, engine.read_bytes() if data is None else data, facts, library, version, capability)


def test_an_engine_for_here_passes(engine):
    check(engine)
    check(engine, capability=None)


@pytest.mark.parametrize(
    ("here", "told"),
    [
        ({"data": b"the engine's byteZ"}, "it is damaged"),
        ({"data": b""}, "it is empty"),
        ({"version": "1.8.0.3"}, r"built by TensorRT for RTX 1\.7\.1\.116, and 1\.8\.0\.3 is here"),
        ({"library": "tensorrt"}, "and TensorRT is here"),
        ({"capability": (12, 0)}, "it was built for sm80, sm89, and this GPU is sm120"),
    ],
)
def test_an_engine_for_elsewhere_is_told_before_it_is_loaded(engine, here, told):
    with pytest.raises(TargetError, match=told) as caught:
        check(engine, **here)
    assert caught.value.missing and "compile the recipe again" in caught.value.help


def test_compatible_engines_are_not_refused(engine):
    check(engine, version="1.9.0.0", version_compatible=True)
    check(engine, capability=(12, 0), hardware="ampere_plus")
    with pytest.raises(TargetError, match="sm75"):
        check(engine, capability=(7, 5), hardware="ampere_plus")


def test_a_damaged_description_is_told(engine):
    engine.with_name("model.engine.json").write_text("{")
    with pytest.raises(TargetError, match=r"`model\.engine\.json` beside it is damaged") as caught:
        engine_facts(engine)
    assert caught.value.missing


class Validity(enum.Enum):
    VALID, INVALID = 0, 2


def test_what_the_library_diagnoses_is_told(engine):
    kinds = SimpleNamespace(VERSION_MISMATCH=1, UNSUPPORTED_CC=2, OLD_CUDA_DRIVER=4, INSUFFICIENT_GPU_MEMORY=16)
    trt = SimpleNamespace(EngineValidity=Validity, EngineInvalidityDiagnostics=kinds)

    def told(verdict, bits):
        check_validity(engine, b"", trt, SimpleNamespace(get_engine_validity=lambda data: (verdict, bits)))

    told(Validity.VALID, 0)
    with pytest.raises(TargetError, match=r"driver is too old.*; the GPU has too little memory") as caught:
        told(Validity.INVALID, 4 | 16)
    assert caught.value.missing


def test_real_engines_that_are_damaged_are_told(engine):
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the `tensorrt-rtx` extra")
    runtime = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))
    with pytest.raises(TargetError, match="it is damaged, or no engine"):
        check_validity(engine, b"no engine at all" * 100, trt, runtime)


class Cuda:
    def __init__(self, status=0, version=13000):
        self.status, self.version = status, version

    def __getattr__(self, name):
        def call(*arguments):
            answers = {"cuDriverGetVersion": self.version, "cuDeviceGetCount": 1}
            if name in answers:
                arguments[0]._obj.value = answers[name]
            return self.status if name == "cuInit" else 0

        return call


@pytest.mark.parametrize(
    ("driver", "told"),
    [
        (Cuda(status=100), "finds no GPU"),
        (Cuda(status=35), "driver is too old"),
        (Cuda(status=803), "does not fit"),
        (Cuda(status=999), "error 999"),
        (Cuda(version=12020), r"it is for CUDA 12\.2, and CUDA 13 is needed"),
    ],
)
def test_no_gpu_no_driver_or_an_old_one(driver, told):
    with pytest.raises(TargetError, match=told) as caught:
        CudaDriver(driver, cuda=13)
    assert caught.value.missing and caught.value.help
    CudaDriver(Cuda(version=13010), cuda=13)


def test_a_damaged_timing_cache_is_told_and_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("MOPT_STORE", str(tmp_path))
    path = timing.cache_file("tensorrt", "10.1", "sm89")
    assert path.is_relative_to(tmp_path) and path != timing.cache_file("tensorrt", "10.1", "sm80")
    assert timing.read_cache(path) == (b"", "")
    timing.write_cache(path, b"timings")
    assert timing.read_cache(path) == (b"timings", "")
    path.write_bytes(path.read_bytes()[:-1])
    assert timing.read_cache(path) == (b"", timing.CORRUPT)


def test_timings_of_another_gpu_are_told():
    def config(takes):
        return SimpleNamespace(
            create_timing_cache=lambda data: data,
            set_timing_cache=lambda kept, loose: kept in takes,
        )

    told: list[str] = []
    assert _timings(config([b"old"]), b"old", told) == b"old" and not told
    assert _timings(config([b""]), b"old", told) == b"" and "another GPU or version" in told[0]


RTX = Found("tensorrt_rtx", "1.7", can_run=False)


@pytest.mark.parametrize(
    ("options", "told", "missing"),
    [
        ({"hardware": "ampere_plus"}, "has no `hardware`", False),
        ({"version_compatible": True}, "has no `version_compatible`", False),
        ({"refit": True}, "only where there is a GPU", True),
    ],
)
def test_options_that_a_library_lacks_are_refused(options, told, missing, monkeypatch):
    monkeypatch.setattr(trt_engine, "gpus", tuple)
    settings = trt_engine.Settings(("sm89",), 0, 3, False, False, **options)
    with pytest.raises(TargetError, match=told) as caught:
        trt_engine.capabilities_of(RTX, settings)
    assert caught.value.missing is missing
    monkeypatch.setattr(trt_engine, "gpus", lambda: (SimpleNamespace(capability=(8, 6)),))
    assert trt_engine.capabilities_of(Found("tensorrt", "10", can_run=True), settings) == ["sm86"]


def test_weights_that_are_not_the_engines_are_told():
    def library(taken=True, missing=(), done=True):
        parser = SimpleNamespace(
            refit_from_bytes=lambda model: taken,
            num_errors=1,
            get_error=lambda at: SimpleNamespace(desc=lambda: "other shape"),
        )
        refitter = SimpleNamespace(get_missing_weights=lambda: missing, refit_cuda_engine=lambda: done)
        return SimpleNamespace(Refitter=lambda engine, log: refitter, OnnxParserRefitter=lambda refitter, log: parser)

    engine, log = SimpleNamespace(serialize=lambda: b"new"), SimpleNamespace(last="why")
    assert refit_weights(library(), engine, log, b"") == b"new"
    for trt, told in (
        (library(taken=False), "other shape"), (library(missing=["w"]), "no weights for `w`"),
        (library(done=False), "why"),
    ):  # fmt: skip
        with pytest.raises(TargetError, match=told):
            refit_weights(trt, engine, log, b"")


def open_here(engine):
    TrtTarget(library="tensorrt_rtx").open(Artifact(engine, (engine,), 1, 1))


@pytest.mark.parametrize(
    "attempt",
    [
        lambda engine: check(engine, capability=(12, 0)),
        lambda engine: check(engine, version="9.0.0.1"),
        lambda engine: check(engine, library="tensorrt"),
        lambda engine: check(engine, data=b"damaged"),
        lambda engine: CudaDriver(Cuda(status=100)),
        lambda engine: CudaDriver(Cuda(version=12020), cuda=13),
        lambda engine: read_parts(engine.with_name("model.parts.json")),
        open_here,
    ],
    ids=["capability", "version", "library", "damaged", "no GPU", "old driver", "no parts", "not here"],
)
def test_the_command_line_ends_with_status_4_and_one_line(engine, attempt, monkeypatch, capsys):
    monkeypatch.setattr(trt_library, "gpus", tuple)
    monkeypatch.setattr(trt_library, "_installed", lambda library: library == "tensorrt_rtx")
    with pytest.raises(TargetError) as caught:
        attempt(engine)
    assert status_of(caught.value) == EXIT_TARGET == 4
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0].startswith("error: ") and len(lines) <= 2
