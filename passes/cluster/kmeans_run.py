"""k-means over the weights of a module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir
from mopt.analysis.codebook import codebooks
from mopt.ir import Module
from mopt.ir.walk import nested_graphs
from mopt.ir.weights import Weight
from mopt.passes.cluster.layout import Layout, layout_of
from mopt.passes.cluster.lloyd import kmeans
from mopt.passes.cluster.rows import assign, distinct, kmeans_rows
from mopt.passes.cluster.sensitivity import Sensitivity
from mopt.passes.cluster.storage import Storage, Writer, halved, smallest_rows, smallest_storage
from mopt.passes.contract import Clusters, Context, Note, PassError, PassResult
from mopt.passes.prune.prunable import candidates
from mopt.passes.prune.scope_notes import check_finite, idle_patterns, left_alone, nothing_to_do
from mopt.passes.quantize.detect import first_quantized
from mopt.passes.quantize.preparation import raise_opset
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mopt.passes.cluster.kmeans import KMeans

_BY_CHANNEL: Final = 11
"""The first opset with GatherElements."""
_WORTH: Final = 0.8
"""A weight is stored as codebooks of rows where that takes no more than this share of its bytes."""


def cluster(module: Module, options: KMeans, context: Context) -> PassResult:
    """Cluster the weights that `options` asks for, in place. See `KMeans.run`."""
    quantized = first_quantized(module)
    if quantized is not None:
        raise PassError(
            f"the graph is quantised already: node `{quantized.name}` is a {quantized.op_type}",
            node=quantized.name,
            help="put cluster.kmeans before the quantiser: clusters stay on its grid",
        )
    raised = ""
    if options.channels:
        needs = f"codebooks of channels are looked up by GatherElements, which is known from {_BY_CHANNEL} on"
        module, raised = raise_opset(module, context, _BY_CHANNEL, needs)
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
    sensitivity = Sensitivity(module, chosen, options.data, context)
    writer = Writer(module)
    elements, before, after, error, energy = 0, 0, 0, 0.0, 0.0
    for weight in chosen:
        array = weight.numpy()
        layout = layout_of(weight, options.channels)
        centroids, indices = _clustered(array, layout, options, sensitivity.weights(weight))
        clustered = _looked_up(centroids, indices, layout, array)
        storage = _storage(weight, layout, centroids, module.opset)
        elements, before, after = elements + array.size, before + array.nbytes, after + storage.nbytes
        error += float(np.sum(np.square(clustered.astype(np.float64) - array)))
        energy += float(np.sum(np.square(array, dtype=np.float64)))
        sensitivity.correct(weight, clustered)
        if layout is None:
            writer.store(weight, centroids, indices, storage)
        else:
            writer.store_rows(weight, centroids, indices, layout.axis, storage)
    module.touch()
    each = "" if not options.channels else " in each group of channels" if options.channels > 1 else " in each channel"
    notes = [
        Note(
            f"{len(chosen)} weights ({elements:,} elements) share at most {options.clusters} values each{each}: "
            f"{before:,} bytes are {after:,}; root of the relative squared error {np.sqrt(error / (energy or 1)):.2%}"
        ),
        *([Note(raised)] if raised else []),
        *sensitivity.notes(),
        *left_alone(reasons),
        *idle_patterns(found, options.only, options.skip),
    ]
    return PassResult(module, True, tuple(notes))


def _clustered(
    array: NDArray[Any], layout: Layout | None, options: KMeans, heavy: NDArray[np.float64] | None
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Return centroids and indices, of the whole weight or of each row. Those of rows are as they will be kept."""
    if layout is None:
        return kmeans(array, options.clusters, keep_zeros=options.keep_zeros, weights=heavy)
    rows = np.ascontiguousarray(layout.matrix(array))
    weights = None if heavy is None else np.ascontiguousarray(layout.matrix(heavy))
    centroids, indices = kmeans_rows(rows, options.clusters, keep_zeros=options.keep_zeros, weights=weights)
    kept = halved(centroids)
    return kept, indices if kept is centroids else assign(rows, kept)


def _looked_up(
    centroids: NDArray[Any], indices: NDArray[np.uint8], layout: Layout | None, array: NDArray[Any]
) -> NDArray[Any]:
    if layout is None:
        return centroids[indices]
    rows = np.take_along_axis(centroids.astype(array.dtype), indices.astype(np.int64), axis=1)
    return layout.undone(rows, array.shape)


def _storage(weight: Weight, layout: Layout | None, centroids: NDArray[Any], opset: int) -> Storage:
    if layout is None:
        return smallest_storage(weight.size, centroids.size, centroids.itemsize, opset)
    return smallest_rows(layout.rows, weight.size, centroids.shape[1], centroids.itemsize, opset)


def _refused(weight: Weight, graphs: set[ir.Graph], options: KMeans, opset: int) -> str | None:
    if weight.graph not in graphs:
        return "it belongs to a function of the model"
    if weight.value.is_graph_input() or weight.value.is_graph_output():
        return "it is an input or output of a graph"
    if weight.size < options.min_elements:
        return f"fewer than {options.min_elements} elements"
    itemsize, layout = weight.tensor.dtype.bitwidth // 8, layout_of(weight, options.channels)
    if layout is None:
        if smallest_storage(weight.size, options.clusters, itemsize, opset).nbytes >= weight.nbytes:
            return "a codebook would not shrink it"
    elif smallest_rows(layout.rows, weight.size, options.clusters, 2, opset).nbytes > _WORTH * weight.nbytes:
        return "codebooks of so few elements would hardly shrink it"
    return None


def promise(before: Module, after: Module) -> tuple[Clusters, ...]:
    """Return the promise: every weight that became a codebook, its elements, and its number of different values.

    Where rows have codebooks of their own, the number is that of the row with most.
    """
    known = {book.name for book in codebooks(before)}
    entries, slices = [], []
    for book in codebooks(after):
        if book.name in known:
            continue
        array = book.numpy().astype(np.float64)
        count = int(np.unique(array).size)
        if book.rows is not None:
            axis = 0 if book.order is None else book.order.index(0)
            most = int(distinct(np.moveaxis(array, axis, 0).reshape(book.rows[0], -1)).max())
            if most < count:
                slices.append((book.name, axis, book.rows[0]))
                count = most
        entries.append((book.name, book.size, count))
    return (Clusters(tuple(entries), tuple(slices)),) if entries else ()
