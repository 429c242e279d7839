"""`mopt store`: what was not used for long goes, with the tensors that nobody else refers to; never under a compile."""

import json
import os
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from mopt.cli.main import cli
from mopt.store import Store, StoreError
from mopt.store.pruning import contents, prune

from tests.store.test_store import model

DAY = 86400.0


def age(path, days):
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def place(store, digest):
    return store.snapshots / digest[:2] / f"{digest}.onnx"


def emitted(store, key, size):
    with store.scratch() as folder:
        (folder / "new").mkdir()
        (folder / "new" / "model.onnx").write_bytes(b"x" * size)
        return store.put_artifact(key, folder / "new")


@pytest.fixture
def store(tmp_path):
    """Two snapshots that share a weight, 20 days old and new; a third of its own; an artifact of 15; a record."""
    store = Store(tmp_path)
    store.old = store.put_module(model(0))
    store.new = store.put_module(model(0, constant=True))
    store.other = store.put_module(model(1))
    age(place(store, store.old), 20)
    age(place(store, store.old).with_suffix(".json"), 20)
    age(place(store, store.other), 10)
    age(place(store, store.other).with_suffix(".json"), 10)
    age(emitted(store, "abc", 100_000), 15)
    store.put_record("steps", "k", {"a": 1})
    return store


def test_what_was_not_used_for_so_long_goes_and_shared_tensors_stay(store):
    before = contents(store)
    assert len(before.tensors) == 2
    removed = prune(store, unused=14 * DAY)
    assert dict(removed.counts) == {"snapshots": 1, "artifacts": 1}
    assert not place(store, store.old).exists()
    assert store.artifact("abc") is None
    assert store.has_module(store.new), "its weight is one that the removed snapshot had as well"
    assert store.get_module(store.other) is not None
    assert store.record("steps", "k") == {"a": 1}
    after = contents(store)
    assert before.bytes - after.bytes == removed.bytes
    assert after.bytes == removed.left


def test_the_last_snapshot_takes_its_tensors_along(store):
    removed = prune(store, unused=9 * DAY)
    assert removed.counts["tensors"] == 1
    assert len(contents(store).tensors) == 1
    with pytest.raises(StoreError, match="not in the store"):
        store.get_module(store.other)
    assert not store.has_module(store.other)


def test_room_is_made_of_what_was_not_used_for_longest(store):
    whole = contents(store).bytes
    removed = prune(store, keep=whole - 1)
    assert dict(removed.counts) == {"snapshots": 1}, "of 20 days; that was enough"
    removed = prune(store, keep=50_000)
    assert removed.counts["artifacts"] == 1
    assert removed.left <= 50_000
    assert store.has_module(store.new)
    assert prune(store, keep=0).left == contents(store).bytes == contents(store).entries[0].bytes
    assert store.record("steps", "k") == {"a": 1}, "figures are small, and stay"
    assert prune(store, unused=0).left == 0


def test_what_is_read_counts_as_used(store):
    assert store.get_module(store.old)
    assert store.has_module(store.other)
    assert store.artifact("abc")
    assert not prune(store, unused=2 * DAY).counts


def test_a_dry_run_touches_nothing(store):
    before = contents(store)
    promised = prune(store, unused=0, dry=True)
    assert contents(store) == before
    assert prune(store, unused=0) == promised


def test_tensors_that_nobody_refers_to_go(store):
    for suffix in (".onnx", ".json"):
        place(store, store.other).with_suffix(suffix).unlink()
    assert dict(prune(store, unused=1000 * DAY).counts) == {"tensors": 1}


def test_a_damaged_listing_is_no_obstacle(store):
    place(store, store.other).with_suffix(".json").write_text("{")
    prune(store, unused=5 * DAY)
    assert store.has_module(store.new)


@pytest.mark.skipif(sys.platform == "win32", reason="no advisory locks")
def test_nothing_is_removed_under_a_compile(store):
    code = (
        "import sys; from pathlib import Path; from mopt.store import Store\n"
        "with Store(Path(sys.argv[1])).hold():\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(store.root.parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with store.hold():
            pass  # any number may
        with pytest.raises(StoreError, match="a compile is using"):
            prune(store, unused=0)
        other.stdin.close()
        other.wait()
    assert prune(store, unused=0).left == 0


def run(*arguments):
    return CliRunner().invoke(cli, ["store", *map(str, arguments)], standalone_mode=False)


def test_the_command_line_tells_and_prunes(store):
    root = store.root.parent
    told = json.loads(run("--store", root, "--json").output)
    assert told["bytes"] == contents(store).bytes
    assert {row["kind"]: row["count"] for row in told["kinds"]} == {
        "snapshots": 3, "tensors": 2, "artifacts": 1, "records": 1, "recordings": 0, "checkpoints": 0,
    }  # fmt: skip
    assert "20 days" in run("--store", root).output
    assert "would remove 1 artifact, 1 snapshot" in run("prune", "--store", root, "--unused", "2w", "--dry-run").output
    assert "removed 1 artifact, 1 snapshot" in run("--store", root, "prune", "--unused", "14d").output
    assert "removed nothing" in run("prune", "--store", root, "--keep", "1GiB").output
    assert "; 0 B left in" in run("prune", "--store", root, "--all").output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "say what to remove"),
        (("--unused", "5x"), "write `30d`, `12h`"),
        (("--unused", "5GiB"), "is no duration"),
        (("--keep", "-1GiB"), "write `10GiB`"),
        (("--keep", "10"), "is no size"),
        (("--keep", "9" * 400 + "GiB"), "is no size"),
    ],
)
def test_what_can_not_be_meant_is_refused(store, arguments, says):
    found = run("prune", "--store", store.root.parent, *arguments)
    assert says in str(found.exception.message)
    assert found.exception.exit_code == 2
    assert len(contents(store).entries) == 5
