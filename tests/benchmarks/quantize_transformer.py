"""8 bits for a sentence transformer (MiniLM), by mopt and by other tools: meaning, size and time, as JSON.

    python tests/benchmarks/quantize_transformer.py --output transformer.json [--rounds 31]

Sentences are of scikit-learn's descriptions of its data sets; judged is the mean cosine of their mean states with the
float model's. Times are of 128 tokens, one thread of onnxruntime's CPU provider, paired with the simplified float
model round by round.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from cluster_cases import same_meaning, tokens
from mopt.ir import load, save
from mopt.passes.contract import Pass
from mopt.passes.quantize.dynamic import Dynamic
from mopt.passes.quantize.static import Static
from mopt.passes.quantize.weights import Weights
from mopt.passes.simplify.simplify import Simplify
from mopt.runtime.ort import OrtRunner
from mopt.runtime.profiler import profile
from mopt.values import DataRef
from prune_cases import cases
from quantize_peers import peers, timed
from quantize_recurrent import context

CALIBRATION = slice(0, 20)
TOKENS = 128
DATA = DataRef("d", "calib")
OURS: dict[str, Pass] = {
    "mopt, static": Static(data=DATA),
    "mopt, static, smooth": Static(data=DATA, smooth=True),
    "mopt, dynamic": Dynamic(),
    "mopt, weights, 8 bits": Weights(bits=8, block=128),
}


def by_onnxruntime_at_run_time(source: Path, path: Path, _: Any) -> None:
    """onnxruntime's own dynamic quantisation, per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, path, per_channel=True, weight_type=QuantType.QInt8)


def sample(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one input of `TOKENS` tokens: sentences behind each other."""
    return {name: np.concatenate([one[name] for one in found])[None, :TOKENS] for name in found[0]}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=31)
    given = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    (case,) = (case for case in cases() if case.name.startswith("MiniLM"))
    calibration = tokens()[CALIBRATION]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        files = {"float": folder / "float.onnx"}
        before = Simplify().run(case.obtain(folder), context([], folder)).module
        save(before, files["float"])
        for label, step in OURS.items():
            start, path = time.perf_counter(), folder / f"{len(files)}.onnx"
            save(step.run(load(files["float"]), context(calibration, folder)).module, path)
            rows[label], files[label] = {"seconds": time.perf_counter() - start}, path
        feeds = [{name: array[None] for name, array in one.items()} for one in calibration]
        others = {**peers(transformer=True), "onnxruntime, dynamic": by_onnxruntime_at_run_time}
        for label, quantise in others.items():
            path = folder / f"{len(rows)}_peer.onnx"
            rows[label] = timed(quantise, files["float"], path, feeds)
            print(label, rows[label], flush=True)
            if "fails" not in rows[label]:
                files[label] = path
        runners = {label: OrtRunner(path) for label, path in files.items()}
        timing = profile(runners, dict.fromkeys(runners, sample(calibration)), runs=given.rounds, baselines="float")
        for label, path in files.items():
            row = rows.setdefault(label, {})
            row |= {**same_meaning(path), "mib": path.stat().st_size / 2**20, "timing": timing[label].to_json()}
            print(label, {key: value for key, value in row.items() if key != "timing"}, timing[label].ratio, flush=True)
    given.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
