"""`cluster.kmeans` on real networks, beside tools that make files as small: size, accuracy, time, as JSON.

    python tests/benchmarks/cluster.py --output cluster.json [--only NAME …] [--seconds 20]

Every network is simplified and then clustered; files are judged on samples nothing was fitted to, and timed on one
thread of onnxruntime's CPU provider, paired with the simplified one round by round. No other tool was found that
writes codebooks into ONNX (NNCF's are for OpenVINO alone): beside 256 clusters stand int8 weights of onnxruntime's
dynamic quantiser and of NNCF, beside 16 clusters NNCF's int4 weights, and the same weights clustered by scikit-learn's
`KMeans`, one codebook a weight. A row that is in the output already is not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from cluster_cases import Clustered, cases
from mopt.analysis.codebook import codebooks
from mopt.ir import Module, load, save, to_proto
from mopt.passes.cluster.kmeans import KMeans
from mopt.passes.convert.opset import Opset
from mopt.runtime.inputs import seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.runtime.profiler import profile
from mopt.values import DataRef
from prune import context, prepared

DATA = DataRef("d", "calib")
OURS: dict[str, dict[str, Any]] = {
    "256": {"clusters": 256},
    "256, data": {"clusters": 256, "data": DATA},
    "16": {"clusters": 16},
    "16, data": {"clusters": 16, "data": DATA},
    "16, channels=4, data": {"clusters": 16, "channels": 4, "data": DATA},
    "16, channels=1, data": {"clusters": 16, "channels": 1, "data": DATA},
}
TIMED = ("256", "16", "16, channels=1, data")
MOST = 4 * 2**20
"""Elements of all weights up to which scikit-learn is run: it takes minutes for more."""


def by_onnxruntime(case: Clustered, before: Path, path: Path) -> None:
    """int8 weights for each channel; activations are quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        before, path, op_types_to_quantize=list(case.operators), per_channel=True, weight_type=QuantType.QInt8
    )


def by_nncf(mode: str) -> Callable[[Clustered, Path, Path], None]:
    """NNCF's weight compression, int8 or int4 in groups of 64, of the layers it chooses, at opset 21."""

    def quantise(case: Clustered, before: Path, path: Path) -> None:
        import nncf

        raised = to_proto(Opset(21).run(load(before), context(case.sizes)).module)
        options = {"group_size": 64} if mode.startswith("INT4") else {}
        onnx.save(nncf.compress_weights(raised, mode=getattr(nncf.CompressWeightsMode, mode), **options), path)

    return quantise


def by_scikit_learn(clustered: Module, before: Module, clusters: int) -> Module:
    """Give each weight that mopt clustered scikit-learn's centroids instead, in a dense model."""
    from sklearn.cluster import KMeans as Theirs

    chosen, made = {book.name for book in codebooks(clustered)}, before.clone()
    for weight in made.weights():
        if weight.name in chosen:
            array = weight.numpy()
            found = Theirs(clusters, n_init=1, random_state=0).fit(array.reshape(-1, 1))
            weight.replace(found.cluster_centers_[found.labels_].reshape(array.shape).astype(array.dtype))
    return made


def measure(case: Clustered, folder: Path, seconds: float) -> dict[str, Any]:
    """Cluster one network in every way; judge, weigh and time what comes out."""
    before = prepared(case.obtain(folder), case.sizes)
    whole = folder / "float.onnx"
    save(before, whole)
    rows: dict[str, dict[str, Any]] = {"float": {"bytes": whole.stat().st_size, **_judged(case, whole)}}
    modules: dict[str, Module] = {}
    for label, options in OURS.items():
        start = time.perf_counter()
        made = KMeans(include=case.include, **options).run(before.clone(), context(case.sizes, case.calib())).module
        rows[f"mopt, {label}"] = {"seconds": time.perf_counter() - start}
        modules[f"mopt, {label}"] = made
        if label == "16":
            raised = Opset(21).run(before.clone(), context(case.sizes)).module
            found = KMeans(include=case.include, **options).run(raised, context(case.sizes)).module
            rows["mopt, 16, opset 21"], modules["mopt, 16, opset 21"] = {}, found
    for label, module in modules.items():
        path = folder / f"{label.replace(' ', '_')}.onnx"
        save(module, path)
        rows[label] |= {"bytes": path.stat().st_size, **_judged(case, path)}
    if sum(weight.size for weight in before.weights()) <= MOST:
        start = time.perf_counter()
        dense = by_scikit_learn(modules["mopt, 16"], before, 16)
        rows["scikit-learn, 16"] = {"seconds": time.perf_counter() - start}
        save(dense, folder / "theirs.onnx")
        rows["scikit-learn, 16"] |= _judged(case, folder / "theirs.onnx")
    theirs = {
        "onnxruntime, int8": by_onnxruntime,
        "NNCF, int8": by_nncf("INT8_ASYM"),
        "NNCF, int4": by_nncf("INT4_ASYM"),
    }
    for label, quantise in theirs.items():
        path, start = folder / f"{label.replace(' ', '_')}.onnx", time.perf_counter()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                quantise(case, whole, path)
            took = time.perf_counter() - start
            rows[label] = {"seconds": took, "bytes": path.stat().st_size, **_judged(case, path)}
        except Exception as error:
            rows[label] = {"fails": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"}
    timed = ["float", *(f"mopt, {label}" for label in TIMED)]
    timed += [label for label in theirs if "bytes" in rows[label]]
    runners = {label: OrtRunner(folder / f"{label.replace(' ', '_')}.onnx") for label in timed}
    feeds = seeded_inputs(before, case.sizes)
    timing = profile(
        runners, dict.fromkeys(runners, feeds), runs=31, settle=2.0, precision=0.02, seconds=seconds, baselines="float"
    )  # fmt: skip
    for label, found_time in timing.items():
        if found_time.ratio:
            rows[label]["time"] = found_time.ratio.to_json()
    return {"ms": timing["float"].median * 1e3, "ways": rows}


def _judged(case: Clustered, path: Path) -> dict[str, Any]:
    return {"judged": case.judge(path)}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    results: dict[str, Any] = {"rows": {}}
    if given.output.exists():
        results = json.loads(given.output.read_text(encoding="utf-8"))
    for case in cases():
        if case.name in results["rows"] or (given.only and case.name not in given.only):
            continue
        with tempfile.TemporaryDirectory() as text:
            results["rows"][case.name] = measure(case, Path(text), given.seconds)
        print(case.name, json.dumps(results["rows"][case.name]), flush=True)
        given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
