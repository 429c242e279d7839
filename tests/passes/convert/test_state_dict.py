"""Weights files: prefixes, wrappers, mismatches, and pickles that would run code."""

import os
import pickle
import re
import zipfile

import pytest
from mopt.passes.convert.state_dict import fit, read_state_dict
from mopt.passes.convert.torch_source import TorchSource
from mopt.runtime.contract import SourceError
from mopt.values import Location

torch = pytest.importorskip("torch")


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def network():
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


@pytest.fixture
def load(tmp_path):
    def run(content, ignore=(), name="w.pt"):
        path = tmp_path / name
        torch.save(content, path)
        tensors, notes = read_state_dict(path)
        module = network()
        with torch.no_grad():
            for tensor in module.state_dict().values():
                tensor.zero_()
        return module, notes + fit(module, tensors, path.name, ignore)

    return run


def same(module, state):
    return all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module.model."])
def test_common_prefix_is_dropped_and_noted(prefix, load):
    state = network().state_dict()
    module, notes = load({prefix + key: value for key, value in state.items()})
    assert same(module, state)
    assert notes == [f"w.pt: the prefix `{prefix}` of its keys was dropped"]


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_checkpoint_entry_is_found_and_noted(wrapper, load):
    state = network().state_dict()
    module, notes = load({"epoch": 3, "loss": 0.1, wrapper: state, "optimizer": {"lr": 1e-3}})
    assert same(module, state)
    assert notes == [f"w.pt: the weights are its entry `{wrapper}`"]


def test_exact_file_has_no_notes(load):
    state = network().state_dict()
    module, notes = load(state)
    assert same(module, state)
    assert notes == []


def test_counters_of_training_may_be_missing(load):
    state = network().state_dict()
    del state["1.num_batches_tracked"]
    assert load(state)[1] == []


def test_mismatches_are_listed_with_nearest_names(load):
    state = network().state_dict()
    state["0.weigth"] = state.pop("0.weight")
    state["2.bias"] = torch.zeros(5)
    state["extra.scale"] = torch.zeros(1)
    with pytest.raises(SourceError) as caught:
        load(state)
    assert str(caught.value).splitlines() == [
        "w.pt does not fit the module:",
        "  1 missing from the file:",
        "    `0.weight` (nearest there: `0.weigth`)",
        "  2 in the file, but not in the module:",
        "    `0.weigth` (nearest there: `0.weight`)",
        "    `extra.scale`",
        "    (`ignore=[…]` takes patterns of keys to leave out)",
        "  1 of another shape:",
        "    `2.bias` is [5] in the file, but [2] in the module",
    ]


def test_ignored_keys(load):
    state = {**network().state_dict(), "extra.scale": torch.zeros(1)}
    _, notes = load(state, ignore=("extra.*",))
    assert len(notes) == 1
    assert "extra.scale" in notes[0]
    with pytest.raises(SourceError, match="missing from the file"):  # patterns never excuse a missing key
        load({key: value for key, value in state.items() if key != "0.bias"}, ignore=("*",))


def test_pickle_with_code_is_refused_and_not_run(load, tmp_path):
    marker = tmp_path / "was run"
    with pytest.raises(SourceError, match=r"pickle with code in it \(`posix.mkdir`\).*loads\s+tensors only"):
        load({"weight": torch.zeros(1), "payload": Payload(marker)})
    assert not marker.exists()


def test_bare_pickle_with_code_is_refused_and_not_run(tmp_path):
    marker, path = tmp_path / "was run", tmp_path / "w.pth"
    path.write_bytes(pickle.dumps(Payload(marker), protocol=2))
    with pytest.raises(SourceError, match="pickle with code in it"):
        read_state_dict(path)
    assert not marker.exists()


def test_pickled_module_is_refused(load):
    with pytest.raises(SourceError, match=r"pickle with code in it \(`torch.nn.modules"):
        load(network())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.pt", b""),
        ("w.pth", b"not a pickle"),
        ("w.safetensors", b"\x08\0\0\0\0\0\0\0garbage!"),
        ("w.safetensors", b""),
    ],
)
def test_damaged_files(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=re.escape(name)):
        read_state_dict(tmp_path / name)


def test_truncated_file(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(SourceError, match=r"w\.pt"):
        read_state_dict(path)


def test_file_without_tensors(load):
    with pytest.raises(SourceError, match=r"holds no state dict \(its keys: epoch\)"):
        load({"epoch": 3})


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_weights_where_a_model_is_expected(name, tmp_path, kit, convert):
    from safetensors.torch import save_file

    path = tmp_path / name
    save_file(network().state_dict(), path) if name.endswith("safetensors") else torch.save(
        network().state_dict(), path
    )
    with pytest.raises(SourceError, match=r"holds weights, not a model.*torch\(\"model.py:Factory\", weights="):
        convert(TorchSource(Location(str(path)), kit.inputs(x="f32 N 4")))


@pytest.mark.parametrize("protocol", [0, 2])
def test_exported_program_with_pickled_code_is_refused_and_not_run(protocol, tmp_path, kit, convert):
    """torch.export's own loader falls back to unrestricted pickles for example inputs."""
    good, bad, marker = tmp_path / "good.pt2", tmp_path / "bad.pt2", tmp_path / "was run"
    torch.export.save(torch.export.export(network().eval(), (torch.zeros(2, 4),)), good)
    replaced = []
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if "sample_inputs" in name:
                content = pickle.dumps(Payload(marker), protocol=protocol)
                replaced.append(name)
            target.writestr(name, content)
    assert replaced
    if protocol == 2:  # the untouched file converts
        convert(TorchSource(Location(str(good))))
    with pytest.raises(SourceError, match=r"bad\.pt2 carries pickled objects that are no tensors"):
        convert(TorchSource(Location(str(bad))))
    assert not marker.exists()
