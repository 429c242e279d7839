"""`tuning.mopt`, the network of eight-by-eight digits: what pruning broke is mended."""

from __future__ import annotations

from pathlib import Path

import mopt
import pytest

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.slow
def test_tuning_recovers_what_pruning_lost(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra `torch`")
    torch.set_num_threads(1)
    results = mopt.compile_recipe(
        RECIPES / "tuning.mopt",
        output=tmp_path / "out",
        store=tmp_path / "store",
        profile="never",
        only=["digits*"],
    )
    assert results.exit_status == 0
    rows = {row.pipeline: row for row in results.rows}
    original, pruned, tuned = (rows[f"digits_{name}"] for name in ("original", "pruned", "tuned"))
    accuracies = [row.metrics["accuracy"] for row in (original, pruned, tuned)]
    assert all(value is not None for value in accuracies)
    assert accuracies[1] < 0.5  # type: ignore[operator]
    assert accuracies[2] >= accuracies[0] - 0.01  # type: ignore[operator]
    assert tuned.nonzero is not None
    assert tuned.parameters is not None
    assert tuned.nonzero < 0.21 * tuned.parameters
