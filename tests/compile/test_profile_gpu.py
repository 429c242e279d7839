"""What `mopt profile` does on a GPU, with the CPU's provider in its place."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from mopt.driver import candidates, half_baseline, profile_details, profiling
from mopt.driver.candidates import Candidate
from mopt.driver.half_baseline import precision_of, with_half_baseline
from mopt.driver.profile_tables import print_comparison
from mopt.driver.profiling import Comparison, Request, profile_models
from mopt.ir import from_proto, load, save
from mopt.runtime.contract import TargetError
from mopt.runtime.gpu import Gpu, Missing, gpus
from mopt.runtime.ort import OrtRunner
from mopt.runtime.ort_failure import DeviceError
from mopt.runtime.ort_placement import Placed, Placement
from mopt.runtime.profiler import timing_of
from mopt.runtime.profiler.energy import Energy
from mopt.runtime.profiler.footprint import Footprint
from mopt.values import Location
from rich.console import Console

PRODUCTS = """
<ir_version: 8, opset_import: ["": 17]>
products (float[N, 64] x) => (float[N, 64] y) <float[64, 64] w> {
    a = MatMul(x, w)
    b = Relu(a)
    y = MatMul(b, w)
}
"""


@pytest.fixture
def products(tmp_path):
    proto = onnx.parser.parse_model(PRODUCTS)
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32) / 8
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    path = tmp_path / "products.onnx"
    save(from_proto(proto), path)
    return path


@pytest.fixture
def as_if_cuda(monkeypatch):
    """A machine with a GPU, as far as `mopt profile` can tell: what it would run there runs on the CPU."""
    real = OrtRunner
    monkeypatch.setattr("mopt.runtime.ort_provider.require", lambda provider: None)
    monkeypatch.setattr("mopt.runtime.ort.OrtRunner", lambda module, **_: real(module))
    monkeypatch.setattr(profiling, "gpus", lambda: (Gpu("NVIDIA Z100", (9, 0)),))


def request(*models, **options):
    given = {"runs": 3, "warmup": 1, "seconds": 0.0, "provider": "cuda"} | options
    return Request([str(model) for model in models], **given)


def shown(comparison):
    console = Console(file=io.StringIO(), width=200)
    print_comparison(comparison, console)
    return console.file.getvalue()


def test_the_baseline_of_a_float32_model_is_float16_and_stated(as_if_cuda, products):
    found = profile_models(request(products))
    assert found.baseline == found.stated == "products.onnx in float16"
    assert list(found.runtimes) == ["products.onnx in float16", "products.onnx"]
    assert found.points[0].timings["products.onnx"].ratio.baseline == "products.onnx in float16"
    text = shown(found)
    assert "baseline: products.onnx in float16" in text and "NVIDIA Z100" in text


def test_a_baseline_that_is_float16_already_stays(as_if_cuda, products, tmp_path):
    half, _ = half_baseline._halved(load(products))
    assert precision_of(half) == "float16"
    save(half, tmp_path / "half.onnx")
    found = profile_models(request(tmp_path / "half.onnx", products))
    assert (found.baseline, found.stated) == ("half.onnx", "half.onnx, float16")
    assert list(found.runtimes) == ["half.onnx", "products.onnx"]


def test_a_baseline_that_can_not_be_float16_says_so():
    module = from_proto(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 17]> ids (int64[N] x) => (int64[N] y) { y = Add(x, x) }'
        )
    )
    chosen, stated = with_half_baseline([Candidate("ids", "onnxruntime", module, lambda: None)], "cuda", 1)
    assert len(chosen) == 1
    assert stated == "ids, float32: it can't be put into float16 (no operator of it takes float16)"


def test_engines_and_frameworks_are_what_they_are():
    eager = Candidate("net", "torch, cuda", None, lambda: None, precision="float16")
    assert with_half_baseline([eager], "cuda", 1) == ([eager], "net, float16")
    engine = Candidate("e.plan", "tensorrt", None, lambda: None)
    assert with_half_baseline([engine], "cuda", 1) == ([engine], "e.plan, as it was built")


def test_on_a_cpu_the_baseline_is_what_was_named(products):
    chosen, stated = with_half_baseline(candidates.candidates([str(products)]), "cpu", 1)
    assert len(chosen) == 1 and stated == "products.onnx, float32"


def test_a_batch_that_the_device_has_no_memory_for_ends_the_search(as_if_cuda, products, monkeypatch):
    """Times are told: samples a second grow up to batch 4; 8 does not fit."""
    calls = []

    def profile(runners, feeds, *, batch, **_):
        calls.append(batch)
        if batch == 8:
            raise DeviceError("the GPU has too little memory left")
        return {name: timing_of([0.1] * 8, batch) for name in runners}

    monkeypatch.setattr("mopt.runtime.profiler.profile", profile)
    found = profile_models(request(products, throughput=True))
    assert calls == [1, 2, 4, 8]
    assert found.stopped == "batch 8: the GPU has too little memory left"
    assert found.best("products.onnx").batch == 4
    assert "most samples a second at batch 4: 40" in shown(found)


def test_the_search_ends_where_nobody_gains(as_if_cuda, products, monkeypatch):
    monkeypatch.setattr(
        "mopt.runtime.profiler.profile",
        lambda runners, feeds, *, batch, **_: {name: timing_of([0.1 * max(batch, 2)] * 8, batch) for name in runners},
    )
    found = profile_models(request(products, throughput=True))
    assert [point.batch for point in found.points] == [1, 2, 4]
    assert "no model gives 5% more samples a second" in found.stopped


def comparison(**options):
    timing = timing_of([0.01] * 8)
    point = profiling.Point(1, {}, {"a": timing})
    machine = {"processor": "cpu", "provider": "cuda", "threads": 1, "gpu": "NVIDIA Z100"}
    return Comparison("a", machine, {"a": "onnxruntime, cuda"}, [point], "a, float16", **options)


def points_at(*sizes):
    timings = {"a": timing_of([0.01] * 8)}
    return [profiling.Point(batch, {"N": batch, "a.very.long.name": 48, "W": width}, timings) for batch, width in sizes]


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ([(1, 320)], ["batch 1"]),
        ([(1, 320), (8, 320)], ["batch 1", "batch 8"]),
        ([(1, 160), (1, 320)], ["W=160", "W=320"]),
        ([(1, 160), (8, 320)], ["batch 1, W=160", "batch 8, W=320"]),
    ],
)
def test_rows_are_named_by_what_differs(sizes, named):
    found = replace(comparison(), points=points_at(*sizes))
    console = Console(file=io.StringIO(), width=80)
    print_comparison(found, console)
    lines = console.file.getvalue().splitlines()
    assert [line.strip().split("  ")[0] for line in lines if " A " in line and "baseline" in line][
        : len(sizes)
    ] == named
    assert any(line.startswith("sizes of the first row: N=1, a.very.long.name=48") for line in lines)


def test_doubled_batches_are_drawn_apart(tmp_path):
    pytest.importorskip("matplotlib")
    from mopt.driver.profile_chart import draw

    found = replace(comparison(), points=points_at(*((2**n, 320) for n in range(8))))
    for name in ("a.svg", "b.svg"):
        draw(found, tmp_path / name)
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "NVIDIA Z100" in text and all(f"<!-- {2**n} -->" in text for n in range(8))
    assert text == (tmp_path / "b.svg").read_text(encoding="utf-8"), "the same figures draw the same bytes"


def test_nodes_that_fell_back_are_told_without_being_asked():
    placed = Placement("CUDAExecutionProvider", (Placed("n", "Conv", "CUDAExecutionProvider"),
                                                 Placed("odd", "NonZero", "CPUExecutionProvider")))  # fmt: skip
    text = shown(comparison(placements={"a": placed}))
    assert "A: 1 of 2 nodes do not run on CUDA (1 on CPU): 1 NonZero: `odd`" in text


def test_memory_of_the_device_and_energy_are_shown():
    text = shown(
        comparison(footprints={"a": Footprint(1.0, 0.5, 2**20, 2**21, 3 * 2**20, 4 * 2**20)},
                   energy={"a": Energy(0.5, 250.0, 100, 8)})
    )  # fmt: skip
    assert "GPU peak, MiB" in text and "4.0" in text
    assert "A: 0.5 J a run, 0.0625 J a sample at batch 8, the whole board at 250 W" in text
    told = shown(comparison(energy={"a": Missing("the package nvidia-ml-py is not installed", "pip install it")}))
    assert "energy: not measured: the package nvidia-ml-py is not installed" in told


def test_energy_is_read_while_a_model_runs(as_if_cuda, products, monkeypatch):
    joules = iter(range(10_000_000))
    meter = SimpleNamespace(joules=lambda: float(next(joules)))
    monkeypatch.setattr("mopt.runtime.profiler.energy.open_meter", lambda: meter)
    monkeypatch.setattr("mopt.runtime.profiler.energy.SECONDS", 0.0)
    monkeypatch.setattr(
        "mopt.runtime.profiler.energy.measure_energy",
        lambda meter, run, *, batch: run() is None or Energy(meter.joules(), 1.0, 1, batch),
    )
    found = profile_models(request(products, energy=True, batches=(2,)))
    assert {name: one.batch for name, one in found.energy.items()} == dict.fromkeys(found.runtimes, 2)
    assert found.to_json()["energy"]["products.onnx"]["batch"] == 2
    monkeypatch.setattr("mopt.runtime.profiler.energy.open_meter", lambda: Missing("no counter", "none"))
    assert profile_models(request(products, energy=True)).to_json()["energy"]["products.onnx"] == {
        "not_measured": "no counter"
    }


def test_the_best_batch_is_looked_for_and_energy_is_not_guessed(products):
    text = shown(profile_models(request(products, provider="cpu", throughput=True, energy=True)))
    assert "most samples a second at batch" in text and "no larger batch: " in text
    assert "energy: not measured: it is read off NVIDIA GPUs" in text


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
def test_without_a_gpu_no_provider_falls_back(products):
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(TargetError) as caught:
            profile_models(request(products, provider=provider))
        assert caught.value.missing and caught.value.help


def test_engines_run_by_their_own_clock_for_energy():
    ran = []
    runner = SimpleNamespace(timed=ran.append, run=lambda feeds: pytest.fail("copies count"))
    profile_details._running(runner, {"x": 1})()
    assert ran == [{"x": 1}]


def test_pytorch_on_a_gpu_needs_one(monkeypatch):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    from mopt.passes.convert import torch_eager

    with pytest.raises(TargetError) as caught:
        torch_eager.TorchEager(None, gpu=True)
    assert caught.value.missing and caught.value.help
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch_eager, "no_gpu", lambda cuda: Missing(f"too old for {cuda}", "newer"))
    with pytest.raises(TargetError, match="too old for 13"):
        torch_eager.TorchEager(None, gpu=True)


def test_the_cls_model_stays_float32_on_the_cpu():
    path = Location("pkg:rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx").resolve()
    assert precision_of(load(path)) == "float32"


BUILD = """
target gpu = ort(provider=cuda)
pipeline plain = linear { }
pipeline thin = plain { prune.magnitude(amount=50%) }
"""


@pytest.fixture
def built_for_cuda(monkeypatch):
    """The `ort` target as if its CUDA provider were here; what it runs says that one node runs on the CPU."""
    from mopt.runtime.contract import Availability
    from mopt.runtime.ort_target import OrtTarget

    class Runner(OrtRunner):
        placement = Placement("CUDAExecutionProvider", (Placed("odd", "NonZero", "CPUExecutionProvider"),))

    monkeypatch.setattr(OrtTarget, "available", lambda self: Availability(True, True))
    monkeypatch.setattr(OrtTarget, "open", lambda self, artifact: Runner(artifact.path))


def test_a_build_for_a_gpu_has_float16_as_its_baseline(built_for_cuda, compiled):
    for _ in range(2):  # the second time from the store
        rows = compiled.rows(compiled(BUILD, profile="auto"))
        assert set(rows) == {"plain", "thin"}
        assert {row.baseline for row in rows.values()} == {"plain in float16"}
        assert all(row.latency[1].ratio is not None for row in rows.values())
        told = "1 of 1 nodes do not run on CUDA (1 on CPU): 1 NonZero: `odd`"
        assert all(told in row.notes for row in rows.values())


def test_a_build_for_the_cpu_has_the_model_itself(compiled):
    rows = compiled.rows(compiled(BUILD.replace("cuda", "cpu"), profile="auto"))
    assert {row.baseline for row in rows.values()} == {"plain"}
    assert rows["plain"].latency[1].ratio is None
