"""Quantisers that learn: gradients are the papers' formulas, grids follow, biases and moves are tied."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `torch`")

from mopt.runtime.trainable.learned_quantizer import Learned  # noqa: E402
from mopt.runtime.trainable.observed_quantizers import FittedWeight, ObservedRange, best_step  # noqa: E402
from mopt.runtime.trainable.tied_quantizers import BiasGrid, Moved  # noqa: E402


def learned(step, zero=0, ends=(0, 15), axis=None, method="lsq", activation=True):
    step = torch.tensor(step)
    return Learned(
        step, torch.full(step.shape, zero, dtype=torch.int32), ends, axis, method=method, activation=activation
    )


def test_lsq_gradients_are_the_papers():
    x = torch.tensor([[-0.3, 0.04, 0.26, 0.61, 1.44, 1.7, 9.0]], requires_grad=True)
    grid = learned(0.1)
    y = grid(x)
    assert torch.allclose(y, torch.tensor([[0.0, 0.0, 0.3, 0.6, 1.4, 1.5, 1.5]]))
    weight = torch.arange(1.0, 8.0)[None]
    (y * weight).sum().backward()
    inside = torch.tensor([[0.0, 1, 1, 1, 1, 0, 0]])
    assert torch.equal(x.grad, weight * inside)
    # eq. 3 of Esser et al.: -v/s + round(v/s) inside, 0 and Qp outside; times 1 / sqrt(N Qp); by ln s: / s.
    v = x.detach() / 0.1
    terms = torch.where(inside == 1, v.round() - v, v.clamp(0, 15))
    expected = (terms * weight).sum() * (7 * 15) ** -0.5 / 0.1
    assert torch.allclose(grid.log_step.grad, expected, rtol=1e-4)


def test_pact_learns_from_what_it_clips_alone():
    x = torch.tensor([[-1.0, 0.2, 0.7, 3.0, 4.0]], requires_grad=True)
    grid = learned(0.1, method="pact")
    assert grid.clip.item() == pytest.approx(1.5)
    grid(x).sum().backward()
    assert torch.equal(x.grad, torch.tensor([[0.0, 1, 1, 0, 0]]))
    # eq. 3 of Choi et al.: 1 for each of the two elements at or above alpha, 0 below; by ln alpha: / alpha.
    assert grid.log_step.grad.item() == pytest.approx(2 / 1.5, rel=1e-5)


def test_channels_have_gradients_of_their_own():
    weight = torch.tensor([[0.31, -0.92], [0.11, 5.0]], requires_grad=True)
    grid = learned([0.1, 0.2], ends=(-8, 7), axis=0, activation=False)
    grid(weight).sum().backward()
    factor = (2 * 7) ** -0.5
    one = ((3 - 3.1) + -8) * factor / 0.1
    two = ((1 - 0.55) + 7) * factor / 0.2
    assert torch.allclose(grid.log_step.grad, torch.tensor([one, two]), rtol=1e-3)
    assert torch.equal(grid.integers(weight).detach(), torch.tensor([[3.0, -8.0], [1.0, 7.0]]))


def test_a_learned_step_finds_the_range():
    torch.manual_seed(0)
    x = torch.rand(64, 16)
    grid = learned(1.0)  # far too coarse: everything is 0 or 1
    optimiser = torch.optim.Adam(grid.parameters(), 0.05)
    for _ in range(150):
        optimiser.zero_grad()
        (grid(x) - x).square().mean().backward()
        optimiser.step()
    assert 0.055 < grid.scale.item() < 0.08


def test_observed_ranges_follow_and_freeze():
    grid = ObservedRange(0.0, 1.0, (0, 255), symmetric=False, momentum=0.5).train()
    grid(torch.tensor([-1.0, 3.0]))
    assert torch.allclose(grid.range, torch.tensor([-0.5, 2.0]))
    assert grid.scale.item() == pytest.approx(2.5 / 255)
    assert grid.zero_point.item() == 51
    grid.observing = False
    grid(torch.tensor([-9.0, 9.0]))
    assert torch.allclose(grid.range, torch.tensor([-0.5, 2.0]))
    grid.observing = True
    grid.eval()(torch.tensor([-9.0, 9.0]))
    assert torch.allclose(grid.range, torch.tensor([-0.5, 2.0]))


def test_fitted_weights_hold_their_peak_or_err_least():
    weight = torch.tensor([[0.1, -0.2, 0.7], [0.0, 0.0, 0.0]])
    peak = FittedWeight(torch.Size([2]), (-8, 7), 0, search=False)
    assert torch.equal(peak.integers(weight), torch.tensor([[1.0, -2.0, 7.0], [0.0, 0.0, 0.0]]))
    torch.manual_seed(0)
    rows = torch.cat([torch.randn(1, 500), torch.randn(1, 500) * 3])
    least = best_step(rows, -2, 1)
    for factor in (0.8, 1.25):
        errors = [
            ((rows / s).round().clamp(-2, 1) * s - rows).square().sum(1)
            for s in (least[:, None], least[:, None] * factor)
        ]
        assert (errors[0] < errors[1]).all()
    searched = FittedWeight(torch.Size([2]), (-2, 1), 0, search=True)
    searched.fit(rows)
    assert torch.allclose(searched.scale, least)


def test_biases_and_moved_values_follow():
    source, weight = learned(0.5), learned([0.1, 0.01], ends=(-127, 127), axis=0, activation=False)
    bias = BiasGrid(source, weight, torch.ones(2))
    assert torch.allclose(bias.scale, torch.tensor([0.05, 0.005]))
    assert torch.allclose(bias(torch.tensor([1.02, 1.002])), torch.tensor([1.0, 1.0]))
    moved = Moved(source)
    with torch.no_grad():
        source.log_step.copy_(torch.tensor(2.0).log())
    assert moved.scale.item() == 2.0
    assert torch.allclose(bias.scale, torch.tensor([0.2, 0.02]))
    assert not list(bias.parameters())
    assert not list(moved.parameters())
