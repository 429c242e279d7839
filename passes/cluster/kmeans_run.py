"""k-means over the weights of a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from mopt.analysis.codebook import codebooks
from mopt.ir import Module
from mopt.ir.walk import nested_graphs
from mopt.ir.weights import Weight
from mopt.passes.cluster.lloyd import inertia, kmeans
from mopt.passes.cluster.storage import Writer, smallest_storage
from mopt.passes.contract import Clusters, Note, PassResult
from mopt.passes.prune.prunable import candidates
from mopt.passes.prune.scope_notes import check_finite, idle_patterns, left_alone, nothing_to_do

if TYPE_CHECKING:
    from mopt.passes.cluster.kmeans import KMeans


def cluster(module: Module, options: KMeans) -> PassResult:
    """Cluster the weights that `options` asks for, in place. See `KMeans.run`."""
    found = candidates(module, options.only, options.skip, options.include)
    graphs = set(nested_graphs(module.graph))
    chosen: list[Weight] = []
    reasons: list[tuple[Weight, str]] = []
    for candidate in found:
        reason = candidate.skipped or _refused(candidate.weight, graphs, options, module.opset)
        if reason is None:
            chosen.append(candidate.weight)
        else:
            reasons.append((candidate.weight, reason))
    if not chosen:
        raise nothing_to_do(found, options.only, reasons, "clustered")
    for weight in chosen:
        check_finite(weight)
    writer = Writer(module)
    elements, before, after, error, energy = 0, 0, 0, 0.0, 0.0
    for weight in chosen:
        array = weight.numpy()
        centroids, indices = kmeans(array, options.clusters, keep_zeros=options.keep_zeros)
        storage = smallest_storage(array.size, centroids.size, array.itemsize, module.opset)
        elements, before, after = elements + array.size, before + array.nbytes, after + storage.nbytes
        error += inertia(array, centroids, indices)
        energy += float(np.sum(np.square(array, dtype=np.float64)))
        writer.store(weight, centroids, indices, storage)
    module.touch()
    notes = [
        Note(
            f"{len(chosen)} weights ({elements:,} elements) share at most {options.clusters} values each: "
            f"{before:,} bytes are {after:,}; root of the relative squared error {np.sqrt(error / (energy or 1)):.2%}"
        ),
        *left_alone(reasons),
        *idle_patterns(found, options.only, options.skip),
    ]
    return PassResult(module, True, tuple(notes))


def _refused(weight: Weight, graphs: set[ir.Graph], options: KMeans, opset: int) -> str | None:
    if weight.graph not in graphs:
        return "it belongs to a function of the model"
    if weight.value.is_graph_input() or weight.value.is_graph_output():
        return "it is an input or output of a graph"
    if weight.size < options.min_elements:
        return f"fewer than {options.min_elements} elements"
    itemsize = weight.tensor.dtype.bitwidth // 8
    if smallest_storage(weight.size, options.clusters, itemsize, opset).nbytes >= weight.nbytes:
        return "a codebook would not shrink it"
    return None


def promise(before: Module, after: Module) -> tuple[Clusters, ...]:
    """Return the promise: every weight that became a codebook, its elements, and its number of different values."""
    known = {book.name for book in codebooks(before)}
    entries = tuple(
        (book.name, book.size, int(np.unique(book.numpy().astype(np.float64)).size))
        for book in codebooks(after)
        if book.name not in known
    )
    return (Clusters(entries),) if entries else ()
