"""The project's own simplification rules, in the order in which they are tried at a node."""

from mopt.passes.simplify.ruleset.absorb import AbsorbAffine
from mopt.passes.simplify.ruleset.activations import (
    FuseGelu,
    FuseHardSigmoid,
    FuseHardSwish,
    FuseScaledClip,
    MergeClips,
)
from mopt.passes.simplify.ruleset.arithmetic import MergeAffine, ScalePastShift
from mopt.passes.simplify.ruleset.branches import InlineIf
from mopt.passes.simplify.ruleset.constants import FoldConstants, FoldFill, FoldShapes, LiftConstant, MergeConstants
from mopt.passes.simplify.ruleset.linear import FoldAffine
from mopt.passes.simplify.ruleset.normalisation import FuseLayerNorm, FuseSoftmax, StaticResize
from mopt.passes.simplify.ruleset.products import FoldPad, MatMulToGemm
from mopt.passes.simplify.ruleset.recurrent import DropZeroState
from mopt.passes.simplify.ruleset.reductions import KeepReducedDims, RemoveReduction
from mopt.passes.simplify.ruleset.reshapes import (
    MergeReshapes,
    MergeTransposes,
    RemoveReshape,
    RemoveTranspose,
    StaticReshape,
    TransposeIntoGemm,
    TransposeToReshape,
)
from mopt.passes.simplify.ruleset.slices import GatherRangeToSlice, MergeConcats, MergeSlices, UnsqueezeIntoGather
from mopt.passes.simplify.ruleset.subexpressions import MergeDuplicates
from mopt.passes.simplify.ruleset.trivial import (
    AbsorbExpand,
    MergeCasts,
    RemoveBroadcast,
    RemoveCast,
    RemoveDropout,
    RemoveIdentity,
    RemoveNeutral,
    RemovePad,
    RemovePool,
    RemoveRepeatedActivation,
    RemoveSingle,
    RemoveSlice,
    RemoveSplit,
)
from mopt.rewrite import Rule

RULES: tuple[Rule, ...] = (
    LiftConstant(),
    InlineIf(),
    FoldShapes(),
    FoldConstants(),
    FoldFill(),
    MergeConstants(),
    RemoveIdentity(),
    RemoveDropout(),
    RemoveCast(),
    MergeCasts(),
    RemoveSingle(),
    RemoveSlice(),
    RemovePad(),
    RemoveBroadcast(),
    AbsorbExpand(),
    RemoveNeutral(),
    RemoveRepeatedActivation(),
    RemoveSplit(),
    RemovePool(),
    RemoveReshape(),
    RemoveTranspose(),
    MergeTransposes(),
    MergeReshapes(),
    StaticReshape(),
    TransposeToReshape(),
    TransposeIntoGemm(),
    MergeSlices(),
    MergeConcats(),
    UnsqueezeIntoGather(),
    RemoveReduction(),
    KeepReducedDims(),
    GatherRangeToSlice(),
    StaticResize(),
    FoldPad(),
    FoldAffine(),
    AbsorbAffine(),
    MergeAffine(),
    ScalePastShift(),
    MatMulToGemm(),
    FuseHardSigmoid(),
    FuseScaledClip(),
    FuseHardSwish(),
    MergeClips(),
    FuseGelu(),
    FuseLayerNorm(),
    FuseSoftmax(),
    DropZeroState(),
    MergeDuplicates(),
)
"""Every rule. A new one is added here by name; its golden cases stand in a file named after it."""

__all__ = ["RULES"]
