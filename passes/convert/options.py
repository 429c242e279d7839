"""`convert(…)`: the explicit form of the conversion every source goes through, with options on its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.passes.contract import Context, Note, Pass, PassError, PassResult
from mopt.plugin import option, register
from mopt.values import TensorType

if TYPE_CHECKING:
    from mopt.ir.module import Module


@register("convert")
@dataclass(frozen=True)
class Convert(Pass):
    """Set the opset, make fixed dimensions dynamic, fold batch normalisation into the layers before it."""

    opset: int | None = option(None, help="move to this opset", minimum=7, maximum=25)
    dynamic: Mapping[str, TensorType] = option(
        factory=dict, help="inputs with new names for dimensions; one that was a number becomes dynamic"
    )
    batchnorm: Literal["keep", "fold"] = option("keep", help="fold batch normalisation into weights, or keep it")

    source: ClassVar[str] = "ONNX, https://onnx.ai; batch-norm folding: Jacob et al. 2018 (arXiv:1712.05877), 3.2"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnx-ir", "onnxruntime-gpu", "onnxruntime")
    equivalence: ClassVar[float | None] = 1e-4

    def run(self, module: Module, context: Context) -> PassResult:
        """Apply the options in the order opset, dynamic, batchnorm.

        Raises:
            PassError: an option can't be honoured.
        """
        from mopt.runtime.contract import SourceError

        notes: list[Note] = []
        modified = False
        if self.opset is not None and self.opset != module.opset:
            from mopt.passes.convert.opset_convert import move_to

            before = module.opset
            module, how = move_to(module, self.opset, context)
            notes.append(Note(f"opset {before} to {self.opset} by {how}"))
            modified = True
        if self.dynamic:
            from mopt.passes.convert.retype import retype

            missing = [name for name in self.dynamic if name not in {info.name for info in module.inputs}]
            if missing:
                have = ", ".join(f"`{info.name}`" for info in module.inputs)
                raise PassError(f"the graph has no input `{missing[0]}`; it has {have}")
            try:
                module, more = retype(module, self.dynamic, "the graph", context.seed)
            except SourceError as error:
                raise PassError(str(error)) from error
            notes += [Note(text) for text in more]
            modified = True
        if self.batchnorm == "fold":
            from mopt.passes.convert.batchnorm import fold_batchnorm

            folded, kept = fold_batchnorm(module)
            notes += [Note(f"{len(folded)} batch normalisations folded")] if folded else []
            notes += [Note(f"`{name}` kept: {reason}", nodes=(name,)) for name, reason in kept]
            modified = modified or bool(folded)
        return PassResult(module, modified, tuple(notes))
