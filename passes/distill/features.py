"""`distill.features`: train a student to compute inside what its teacher computes inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.passes.contract import Context, PassResult
from mopt.passes.distill.options import Distillation
from mopt.plugin import option, register

if TYPE_CHECKING:
    from mopt.ir import Module


@register("distill.features")
@dataclass(frozen=True, kw_only=True)
class Features(Distillation):
    """Train the weights so that named layers give what the teacher's give, beside a loss over the targets or without.

    Layers are named as in the source models, and found in both graphs whatever simplification and pruning made of
    them. Where a layer of the student is narrower, a linear map (1×1) takes it to the teacher's width; it trains along
    and is thrown away. Zeros, clusters and grids of earlier passes stay, as with `tune`.
    """

    layers: Mapping[str, str] | tuple[str, ...] = option(
        help='source layers to compare: names that both have, or pairs, the student\'s first: `{conv1: "body.conv1"}`'
    )
    distance: Literal["mse", "cosine"] = option(
        "mse",
        help="`mse`: squared error relative to the teacher's features; `cosine`: angle between channel vectors",
    )
    mode: Literal["offline", "online"] = option(
        "online", help="run the teacher at every step, or once over the data and keep its features on disk"
    )

    version: ClassVar[int] = 1
    source: ClassVar[str] = (
        "FitNets: Romero et al. 2015 (arXiv:1412.6550); cosine along channels: Zagoruyko & Komodakis 2017 "
        "(arXiv:1612.03928)"
    )

    def __post_init__(self) -> None:
        """Refuse options that do not go together.

        Raises:
            ValueError: saying which.
        """
        super().__post_init__()
        if not self.layers:
            raise ValueError("`layers` names no layer; give those whose outputs are compared")

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The student's and the teacher's name of each layer."""
        if isinstance(self.layers, Mapping):
            return tuple(self.layers.items())
        return tuple((name, name) for name in self.layers)

    def run(self, module: Module, context: Context) -> PassResult:
        """Train `module`, the student.

        Raises:
            PassError: a layer is in neither graph or computes nothing to compare; teacher and student do not fit; see
                `Tune.run` for what else may be wrong.
            DataError: data and either network do not fit.
        """
        from mopt.passes.distill.features_run import distill_features

        return distill_features(module, self, context)
