"""The store: what goes in comes out, once, whole, and a fault of the disk loses nothing."""

import errno
import os
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from mopt.ir import from_proto, verify
from mopt.store import Store, StoreError, digest_of, write_atomically
from onnx import TensorProto, helper, numpy_helper


def model(seed=0, *, constant=False, extra=0.0):
    """A matrix product whose weight (40 KB) is an initializer or a Constant node, and a small bias."""
    weight = np.random.default_rng(seed).normal(size=(100, 100)).astype(np.float32) + np.float32(extra)
    nodes, initializers = [], [numpy_helper.from_array(np.arange(100, dtype=np.float32), "b")]
    if constant:
        nodes.append(helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight, "w")))
    else:
        initializers.append(numpy_helper.from_array(weight, "w"))
    nodes += [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 100])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 100])],
        initializers,
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def arrays(module):
    return {weight.name: np.array(weight.numpy()) for weight in module.weights()}


def files(store):
    return sorted(p for p in store.root.rglob("*") if p.is_file())


@pytest.mark.parametrize("constant", [False, True])
def test_round_trip(tmp_path, constant):
    store = Store(tmp_path)
    module = model(constant=constant)
    before = arrays(module)
    digest = store.put_module(module)
    loaded = store.get_module(digest)
    assert not verify(loaded)
    after = arrays(loaded)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    # The module that was put in is served from the store now, and is the same.
    np.testing.assert_array_equal(arrays(module)["w"], before["w"])
    assert store.put_module(loaded) == digest


def test_weights_are_stored_once(tmp_path):
    store = Store(tmp_path)
    first, second = model(), model()
    second.graph.outputs[0].name = "z"
    assert store.put_module(first) != store.put_module(second)
    assert len(list(store.tensors.rglob("*/*"))) == 1
    store.put_module(model(seed=1))
    assert len(list(store.tensors.rglob("*/*"))) == 2


def test_digest_depends_on_content_alone(tmp_path):
    one, two = Store(tmp_path / "one"), Store(tmp_path / "elsewhere" / "two")
    assert one.put_module(model()) == two.put_module(model())
    assert one.put_module(model()) != one.put_module(model(extra=1e-3))


def test_graph_file_is_small(tmp_path):
    store = Store(tmp_path)
    digest = store.put_module(model())
    assert (store.snapshots / digest[:2] / f"{digest}.onnx").stat().st_size < 2000


def test_a_snapshot_that_lost_a_tensor_counts_as_absent(tmp_path):
    store = Store(tmp_path)
    digest = store.put_module(model())
    assert store.has_module(digest)
    tensor = next(p for p in store.tensors.rglob("*") if p.is_file())
    tensor.write_bytes(tensor.read_bytes()[:100])
    assert not store.has_module(digest)
    with pytest.raises(StoreError, match="missing or damaged"):
        store.get_module(digest)
    # Putting the module again mends it.
    assert store.put_module(model()) == digest
    assert store.has_module(digest)


def test_a_damaged_graph_is_noticed(tmp_path):
    store = Store(tmp_path)
    digest = store.put_module(model())
    path = store.snapshots / digest[:2] / f"{digest}.onnx"
    data = bytearray(path.read_bytes())
    data[10] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        store.get_module(digest)


@pytest.mark.parametrize("fail_at", range(4))
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, fail_at):
    store = Store(tmp_path)
    kept = store.put_module(model(seed=5))
    before = files(store)
    writes = 0
    real = os.fdopen

    def opening(handle, *arguments, **options):
        file = real(handle, *arguments, **options)
        nonlocal writes

        class Full:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def write(self, data):
                nonlocal writes
                writes += 1
                if writes > fail_at:
                    file.write(bytes(data)[: len(data) // 2])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return file.write(data)

        return Full()

    monkeypatch.setattr(os, "fdopen", opening)
    if fail_at == 3:  # a snapshot is three files: its tensor, its listing, its graph
        store.put_module(model(seed=6))
        return
    with pytest.raises(StoreError, match=r"no space left .* is kept: free some space"):
        store.put_module(model(seed=6))
    monkeypatch.undo()
    assert [p for p in files(store) if p.name.startswith(".part-")] == []
    assert set(before) <= set(files(store))
    assert store.has_module(kept)
    digest = store.put_module(model(seed=6))
    assert store.has_module(digest)


def test_records_and_their_absence(tmp_path):
    store = Store(tmp_path)
    assert store.record("steps", "ab12") is None
    store.put_record("steps", "ab12", {"x": [1, 2.5, None, "é"]})
    assert store.record("steps", "ab12") == {"x": [1, 2.5, None, "é"]}
    (store.root / "records/steps/ab/ab12.json").write_text("{ damaged", encoding="utf-8")
    assert store.record("steps", "ab12") is None


def test_artifacts_are_moved_in_whole_and_once(tmp_path):
    store = Store(tmp_path)
    for text in ("first", "second"):
        with store.scratch() as scratch:
            folder = scratch / "artifact"
            folder.mkdir()
            (folder / "model.onnx").write_text(text, encoding="utf-8")
            place = store.put_artifact("abcd", folder)
    assert (place / "model.onnx").read_text(encoding="utf-8") == "first"
    assert store.artifact("abcd") == place
    assert store.artifact("ffff") is None


def test_scratch_is_removed_also_after_an_error(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="x"), store.scratch() as scratch:
        (scratch / "file").write_text("half", encoding="utf-8")
        raise ValueError("x")
    assert list((store.root / "tmp").iterdir()) == []


def test_sweep_removes_what_dead_processes_left(tmp_path):
    store = Store(tmp_path)
    dead = store.root / "tmp" / "999999999-abc"
    dead.mkdir()
    (dead / "file").write_text("x", encoding="utf-8")
    mine = store.root / "tmp" / f"{os.getpid()}-abc"
    mine.mkdir()
    store.sweep()
    assert not dead.exists()
    assert mine.exists()


def test_checkpoints_last_until_they_are_dropped_or_abandoned(tmp_path):
    store = Store(tmp_path)
    wanted, other, old = (store.checkpoints(key) for key in ("aa1", "aa2", "bb3"))
    for folder in (wanted, other, old):
        folder.mkdir(parents=True)
        (folder / "checkpoint.pt").touch()
    long_ago = time.time() - 40 * 86400
    os.utime(old, (long_ago, long_ago))
    store.drop_checkpoints("aa2")
    store.drop_checkpoints("never made")
    store.sweep()
    assert [folder.exists() for folder in (wanted, other, old)] == [True, False, False]


def test_unwritable_place_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(StoreError):
        Store(tmp_path / "file" / "store")


def test_digest_of_ignores_key_order():
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 1.5})


def test_write_atomically_keeps_the_old_file_on_failure(tmp_path):
    path = tmp_path / "f"
    write_atomically(path, b"old")

    def failing(file):
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, failing)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_large_tensors_are_written_in_pieces(tmp_path, monkeypatch):
    from mopt.store import snapshot

    monkeypatch.setattr(snapshot, "_CHUNK", 1000)
    store = Store(tmp_path)
    module = model()
    expected = arrays(module)["w"]
    np.testing.assert_array_equal(arrays(store.get_module(store.put_module(module)))["w"], expected)
    assert isinstance(onnx.load(next(store.snapshots.rglob("*.onnx")), load_external_data=False), onnx.ModelProto)
    assert all(isinstance(p, Path) for p in files(store))
