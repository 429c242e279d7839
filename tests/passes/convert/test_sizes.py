"""Sizes for tracing and checking are those the source model takes, and tell its dimensions apart."""

import pytest
from mopt.passes.convert.sizes import dynamic_names, example, find_sizes
from mopt.runtime.contract import SourceError


def accepting(condition):
    tried = []

    def attempt(sizes):
        tried.append(dict(sizes))
        if not condition(sizes):
            raise SourceError(f"refused {sizes}")

    attempt.tried = tried
    return attempt


def test_two_batches_neither_of_them_traced(kit):
    traced, checks = find_sizes(kit.inputs(x="f32 N 4"), {}, accepting(lambda sizes: True))
    assert traced == {"N": 2}
    assert checks == [{"N": 1}, {"N": 3}]


def test_height_and_width_differ_and_are_varied(kit):
    traced, checks = find_sizes(kit.inputs(x="f32 N 3 H W"), {}, accepting(lambda sizes: True))
    assert traced["H"] != traced["W"]
    assert len(checks) == 2
    assert all(checks[1][name] != traced[name] for name in ("N", "H", "W"))


def test_square_model_gets_squares(kit):
    traced, checks = find_sizes(kit.inputs(x="f32 N 3 H W"), {}, accepting(lambda sizes: sizes["H"] == sizes["W"]))
    assert traced["H"] == traced["W"] != checks[1]["H"] == checks[1]["W"]


def test_batch_of_one_may_be_refused(kit):
    _, checks = find_sizes(kit.inputs(x="f32 N 4"), {}, accepting(lambda sizes: sizes["N"] > 1))
    assert checks == [{"N": 3}]


def test_multiples_of_32(kit):
    attempt = accepting(lambda sizes: sizes["W"] % 32 == 0 and sizes["W"] >= 64)
    traced, checks = find_sizes(kit.inputs(x="f32 1 3 32 W"), {}, attempt)
    assert traced["W"] % 32 == 0
    assert checks[0] == traced
    assert checks[1]["W"] % 32 == 0 != checks[1]["W"] - traced["W"]


def test_given_sizes_are_used(kit):
    traced, _ = find_sizes(kit.inputs(x="f32 N W"), {"W": 43}, accepting(lambda sizes: True))
    assert traced == {"N": 2, "W": 43}


def test_nothing_fits(kit):
    attempt = accepting(lambda sizes: False)
    with pytest.raises(
        SourceError, match=r"refused .*\n  no size that was tried for W suits .*give one that does by `sizes="
    ):
        find_sizes(kit.inputs(x="f32 N W"), {}, attempt)
    assert len(attempt.tried) < 60


def test_nothing_is_dynamic(kit):
    assert find_sizes(kit.inputs(x="f32 2 4"), {}, accepting(lambda sizes: True)) == ({}, [{}])


def test_one_name_in_two_inputs_has_one_size(kit):
    spec = kit.inputs(ids="i64 N T", mask="i64 N T", state="f32 2 N 8")
    assert dynamic_names(spec) == ("N", "T")
    drawn = example(spec, {"N": 3, "T": 5})
    assert drawn["ids"].shape == drawn["mask"].shape == (3, 5)
    assert drawn["state"].shape == (2, 3, 8)
    assert set(drawn["ids"].ravel()) <= {0, 1}
