"""`prune.channels(30%, of=macs, round_to=8)` on networks of each shape, beside other tools, as JSON.

    python tests/benchmarks/prune.py --output prune.json [--only NAME …] [--seconds 30]

Every network is simplified, cut, run on onnxruntime, built for TensorRT ahead of time (fp32), and timed on one thread
of onnxruntime's CPU provider, paired with the simplified one round by round, for up to `--seconds`. Peers, in the same
rounds, are made to save as many MACs: Torch-Pruning and `torch.nn.utils.prune` (which only makes zeros, at 30% of the
channels) on PyTorch networks, onnxsim's structured pruning on the graph. A row that is in the output already is not
measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from mopt.analysis.cost import cost
from mopt.analysis.coupling import groups
from mopt.ir import Module, load, save
from mopt.passes.contract import PassError
from mopt.passes.prune.channels import Channels
from mopt.passes.simplify.rules import Rules
from mopt.plugin import default_registry
from mopt.runtime.contract import Sizes, TargetError
from mopt.runtime.data.splits import Samples
from mopt.runtime.inputs import seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.runtime.profiler import profile
from mopt.runtime.trt.target import TrtTarget
from mopt.values import DataRef, Ratio
from prune_cases import Case, cases
from prune_peers import by_onnxsim, by_torch_pruning, by_zeros, until
from prune_vit import tenth

SHARE = 0.3


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Any]:
    """A progress bar that shows nothing."""
    yield SimpleNamespace(advance=lambda *_: None, describe=lambda *_: None)


def context(sizes: dict[str, int] | None = None, samples: list[Any] | None = None) -> Any:
    """What a pass may ask for."""
    split = Samples(samples or [], len(samples or []), "calib")
    return SimpleNamespace(seed=0, bindings=sizes or {}, scratch=Path(), progress=bar, split=lambda _: split)


def prepared(source: Module, sizes: dict[str, int]) -> Module:
    """Simplify; every candidate starts from that."""
    return Rules().run(source, context(sizes)).module


def narrowed(before: Module, after: Module) -> int:
    """How many groups of channels that could be cut were."""
    left = {group.name: group.channels for group in groups(after)}
    return sum(group.reason is None and left.get(group.name, 0) < group.channels for group in groups(before))


def engine(module: Module, sizes: dict[str, int]) -> dict[str, Any]:
    """Build as `mopt compile --target trt` does."""
    target, start = (
        TrtTarget(capabilities=("sm89",), profile={name: (size,) for name, size in sizes.items()}),
        time.time(),
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, options in target.prepare():
                module = default_registry().get("passes", name)(**options).run(module, context(sizes)).module
            artifact = target.emit(module, Path(folder), Sizes())
        except (TargetError, PassError) as error:
            return {"builds": False, "reason": str(error)[:400]}
        return {"builds": True, "bytes": artifact.bytes, "seconds": time.time() - start}


def candidates(case: Case, before: Module, row: dict[str, Any]) -> dict[str, Module]:
    """Cut in every way; put what there is to say of each into `row`."""
    found = {"float": before}
    start = time.perf_counter()
    result = Channels(Ratio(SHARE), of="macs", round_to=8).run(before.clone(), context(case.sizes))
    row |= {"seconds": time.perf_counter() - start, "notes": [note.message for note in result.notes]}
    found["mopt"] = result.module
    wide = Channels(Ratio(SHARE), of="macs", round_to=16).run(before.clone(), context(case.sizes)).module
    found["mopt, round_to=16"], row["macs_saved_16"] = wide, 1 - cost(wide, case.sizes).macs / row["macs"]
    # Whole multiples of 8 leave small groups as they are: what can be cut shows without.
    exact = Channels(Ratio(SHARE)).run(before.clone(), context(case.sizes)).module
    row["cut"] = {"round_to=8": narrowed(before, result.module), "round_to=1": narrowed(before, exact)}
    if case.calib:
        for label, scope in (("mopt, data", "local"), ("mopt, global, data", "global")):
            start = time.perf_counter()
            corrected = Channels(Ratio(SHARE), of="macs", round_to=8, scope=scope, data=DataRef("d", "calib"))
            found[label] = corrected.run(before.clone(), context(case.sizes, case.calib())).module
            row[f"seconds, {label}"] = time.perf_counter() - start
    peers: dict[str, Any] = {}
    tools: dict[str, Any] = {"onnxsim": lambda: by_onnxsim(before)}
    if case.network:
        network, example = case.network()

        def export(smaller: Any) -> Module:
            with tempfile.TemporaryDirectory() as folder:
                return prepared(load(case.export(smaller, Path(folder))), case.sizes)

        tools["Torch-Pruning"] = lambda: by_torch_pruning(network, example, export)
        tools["torch.nn.utils.prune"] = lambda: by_zeros(network, export)
    for name, make in tools.items():
        try:
            cut = make()
        except ImportError as error:
            peers[name] = {"fails": str(error)}
            continue
        if name == "torch.nn.utils.prune":
            module = cut(SHARE)
            peers[name] = {"channels": SHARE, "macs_saved": 1 - cost(module, case.sizes).macs / row["macs"]}
        else:
            module, peers[name] = until(SHARE, before, cut, case.sizes)
        if module is not None and peers[name].get("macs_saved", 0) > 0:
            if name == "onnxsim":
                peers[name]["cut"] = narrowed(before, module)
            found[name] = module
        elif module is not None and case.judge:
            found[name] = module
    row["peers"] = peers
    return found


def measure(case: Case, folder: Path, seconds: float) -> dict[str, Any]:
    """Cut one network in every way, build what is left, judge it, and time it beside what it was."""
    before = prepared(case.obtain(folder), case.sizes)
    known, old = groups(before), cost(before, case.sizes)
    row: dict[str, Any] = {
        "shape": case.shape, "framework": case.framework, "weights": case.weights, "sizes": case.sizes,
        "groups": len(known), "can_be_cut": sum(group.reason is None for group in known),
        "left": {group.name: group.reason for group in known if group.reason is not None}, "macs": old.macs,
    }  # fmt: skip
    modules, runners = candidates(case, before, row), {}
    feeds = seeded_inputs(before, case.sizes)
    for label, module in modules.items():
        path = folder / f"{label.replace(' ', '_')}.onnx"
        save(module, path)
        try:
            runner = OrtRunner(path)
            finite = all(np.isfinite(array).all() for array in runner.run(feeds).values())
        except Exception as error:
            row["peers"].setdefault(label, {})["fails"] = f"onnxruntime: {str(error).replace(f'{folder}/', '')[:200]}"
            continue
        assert finite or not label.startswith("mopt")
        runners[label] = runner
    timing = profile(
        runners, dict.fromkeys(runners, feeds), runs=31, settle=2.0, precision=0.02, seconds=seconds, baselines="float"
    )  # fmt: skip
    new = cost(modules["mopt"], case.sizes)
    row |= {
        "macs_saved": 1 - new.macs / old.macs, "parameters_saved": 1 - new.parameters / old.parameters,
        "ms": timing["float"].median * 1e3, "rounds": timing["float"].rounds,
        "time": {label: found.ratio.to_json() for label, found in timing.items() if found.ratio},
        "trt": {"whole": engine(before.clone(), case.sizes), "cut": engine(modules["mopt"].clone(), case.sizes)},
    }  # fmt: skip
    if "mopt, global, data" in modules:
        row["macs_saved_global"] = 1 - cost(modules["mopt, global, data"], case.sizes).macs / old.macs
    if case.judge:
        row["judged"] = {label: case.judge(folder / f"{label.replace(' ', '_')}.onnx") for label in runners}
    return row


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    results: dict[str, Any] = {"share": SHARE, "rows": {}}
    if given.output.exists():
        results = json.loads(given.output.read_text(encoding="utf-8"))
    for case in cases():
        if case.name in results["rows"] or (given.only and case.name not in given.only):
            continue
        with tempfile.TemporaryDirectory() as text:
            row = measure(case, Path(text), given.seconds)
        results["rows"][case.name] = row
        shown = {
            name: row[name]
            for name in ("can_be_cut", "cut", "macs_saved", "time", "trt", "peers", "judged")
            if name in row
        }
        print(case.name, json.dumps(shown), flush=True)
        given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if not given.only and "tenth of a ViT" not in results:
        (vit,) = (case for case in cases() if case.name == "ViT of vit.mopt")
        results["tenth of a ViT"] = tenth(vit, lambda source: prepared(source, vit.sizes), context)
        print(json.dumps(results["tenth of a ViT"]), flush=True)
        given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
