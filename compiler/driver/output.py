"""The output folder: for each pipeline its artifacts and diffs, beside them the report and the manifest.

build/quickstart/
  results.json  results.md  build.json
  pruned/cpu/model.onnx
  pruned/diff/1-prune.magnitude.{json,txt}
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.plan.render import call_text
from mopt.report.markdown import markdown_report
from mopt.report.results import Results, StepReport
from mopt.store.files import digest_of, storage_errors, write_atomically, write_json

if TYPE_CHECKING:
    from mopt.build.artifacts import Emitted
    from mopt.build.executor import Executor
    from mopt.driver.pipelines import PipelineRun
    from mopt.plan import Plan
    from mopt.store import Store

MANIFEST = "build.json"


class Output:
    """The output folder of one recipe."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self._store = folder, store
        self.logs = folder / "logs"

    def publish(self, target: str, pipeline: str, emitted: Emitted) -> str:
        """Put an artifact's files under `PIPELINE/TARGET/` and return the main file's place in the folder.

        Files are linked where the disk allows; a file already there with the same content is left alone.
        """
        place = self.folder / _file_name(pipeline) / _file_name(target)
        root = self._store.artifact(emitted.key)
        assert root is not None
        wanted = {path.relative_to(root): path for path in emitted.artifact.files}
        with storage_errors(place):
            for relative, source in wanted.items():
                destination = place / relative
                if destination.exists() and destination.samefile(source):
                    continue
                destination.parent.mkdir(parents=True, exist_ok=True)
                part = destination.with_name(f".part-{os.getpid()}-{destination.name}")
                try:
                    os.link(source, part)
                except OSError:
                    shutil.copyfile(source, part)
                part.replace(destination)
            if place.is_dir():
                for stale in place.rglob("*"):
                    if stale.is_file() and stale.relative_to(place) not in wanted:
                        stale.unlink()
        return str((place / emitted.artifact.path.relative_to(root)).relative_to(self.folder))

    def steps(
        self, plan: Plan, executor: Executor, runs: Mapping[str, PipelineRun]
    ) -> dict[str, tuple[StepReport, ...]]:
        """Describe every step that ran, and write its diff beside the pipeline."""
        found = {}
        for name, run in runs.items():
            reports = []
            for number, outcome in enumerate(run.outcomes, 1):
                step = plan.steps[outcome.step]
                assert step.parent is not None and step.operation is not None
                summary = ""
                before = executor.outcome(step.parent).snapshot
                if outcome.snapshot is not None and before is not None and outcome.modified:
                    summary = self._diff(name, number, step.operation.name, before, outcome.snapshot)
                reports.append(
                    StepReport(
                        label=f"{name}@{number}",
                        text=call_text(step.operation),
                        seconds=round(outcome.seconds, 4),
                        cached=outcome.cached,
                        modified=outcome.modified,
                        drift=outcome.drift,
                        diff=summary,
                        notes=tuple(note.message for note in outcome.notes),
                        failure=outcome.failure,
                        figures=tuple(note.figures for note in outcome.notes if note.figures),
                    )
                )
            found[name] = tuple(reports)
        return found

    def write(self, plan: Plan, runs: Mapping[str, PipelineRun], results: Results) -> None:
        """Write the results and the manifest that `mopt diff` and `mopt show` read."""
        write_json(self.folder / "results.json", results.to_json(), indent=1)
        write_atomically(self.folder / "results.md", markdown_report(results).encode())
        manifest: dict[str, Any] = {
            "recipe": str(Path(plan.recipe.path).absolute()),
            "store": str(self._store.root.parent),
            "pipelines": {},
        }
        for name, run in runs.items():
            manifest["pipelines"][name] = {
                "status": run.status,
                "base": run.base,
                "steps": [
                    {"text": call_text(plan.steps[outcome.step].operation), "snapshot": outcome.snapshot}
                    for outcome in run.outcomes
                ],
                "result": run.result,
            }
        write_json(self.folder / MANIFEST, manifest, indent=1)

    def _diff(self, pipeline: str, number: int, operation: str, before: str, after: str) -> str:
        """Write the diff of a step as JSON and text; return its one-line summary."""
        import mopt

        labels = (f"before {operation}", f"after {operation}")
        key = digest_of(["diff", mopt.__version__, operation, before, after])
        record = self._store.record("diffs", key)
        if record is None:
            from mopt.diff import diff, render_terminal
            from rich.console import Console

            sides = self._store.get_module(before), self._store.get_module(after)
            found = diff(*sides, labels=labels, step=operation)
            for side in sides:
                side.let_go()
            console = Console(record=True, width=120, file=io.StringIO(), color_system=None)
            render_terminal(found, console)
            record = {"summary": found.summary(), "json": found.to_json(), "text": console.export_text()}
            self._store.put_record("diffs", key, record)
        folder, label = self.folder / _file_name(pipeline) / "diff", f"{number}-{operation}"
        write_json(folder / f"{label}.json", record["json"], indent=1)
        write_atomically(folder / f"{label}.txt", record["text"].encode())
        return str(record["summary"])


def _file_name(name: str) -> str:
    """Return a name that is safe in a path: pipelines may be called in any script, and carry `[amount=30%]`."""
    return "".join("_" if character in '/\\:*?"<>|\0' else character for character in name)
