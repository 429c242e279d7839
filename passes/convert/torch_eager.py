"""A PyTorch model run by PyTorch itself, as a recipe's author would: what speed-ups over the framework refer to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from mopt.passes.convert.torch_convert import Reference
from mopt.passes.convert.torch_load import keyword_arguments, load_torch

if TYPE_CHECKING:
    import numpy as np
    from mopt.passes.convert.torch_source import TorchSource


class TorchEager:
    """A model in evaluation mode without gradients, on the CPU.

    Args:
        source: what a recipe names.
        threads: of PyTorch, for the whole process.

    Raises:
        SourceError: it can't be loaded.
    """

    def __init__(self, source: TorchSource, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._loaded, _ = load_torch(source, lambda _: None)
        self._call = Reference(self._loaded, source)

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Run once.

        Raises:
            SourceError: the model raises.
        """
        return dict(self._call(feeds))

    def bound(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], object]:
        """Return a function that calls the model on tensors that are there already."""
        tensors = {name: torch.from_numpy(array.copy()) for name, array in feeds.items()}
        arguments, keywords = keyword_arguments(self._loaded, tensors)
        module = self._loaded.module

        def call() -> object:
            with torch.inference_mode():
                return module(*arguments, **keywords)

        return call
