"""mopt: a declarative model-compression compiler.

The public API. Everything is imported when first used, so that `import mopt` costs nothing:

    import mopt
    results = mopt.compile_recipe("recipe.mopt", targets=["ort"])
    module = mopt.load_model("model.onnx")
    print(mopt.diff_models(module, mopt.load_model("smaller.onnx")).summary())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mopt.api import check_recipe, compile_recipe
    from mopt.diff import Diff
    from mopt.diff import diff as diff_models
    from mopt.ir import Module
    from mopt.ir import load as load_model
    from mopt.ir import save as save_model
    from mopt.report import Results

_PUBLIC = {
    "Diff": ("mopt.diff", "Diff"),
    "Module": ("mopt.ir", "Module"),
    "Results": ("mopt.report", "Results"),
    "check_recipe": ("mopt.api", "check_recipe"),
    "compile_recipe": ("mopt.api", "compile_recipe"),
    "diff_models": ("mopt.diff", "diff"),
    "load_model": ("mopt.ir", "load"),
    "save_model": ("mopt.ir", "save"),
}

__all__ = [
    "Diff",
    "Module",
    "Results",
    "__version__",
    "check_recipe",
    "compile_recipe",
    "diff_models",
    "load_model",
    "save_model",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mopt' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
