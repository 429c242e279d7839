"""Regions of interest in feature maps, and choosing among boxes."""

from __future__ import annotations

from math import ceil, floor

import torch
from mopt.runtime.trainable.operator import Call, Compute, operator
from torch import Tensor


@operator("RoiAlign")
def prepare_roi_align(call: Call) -> Compute:
    """Every bin the mean (or maximum) of evenly spread samples between pixels (He et al., 2017)."""
    height, width = call.attribute("output_height", 1), call.attribute("output_width", 1)
    ratio, scale = call.attribute("sampling_ratio", 0), call.attribute("spatial_scale", 1.0)
    default = "half_pixel" if call.opset >= 16 else "output_half_pixel"
    half = call.attribute("coordinate_transformation_mode", default) == "half_pixel"
    mean = call.attribute("mode", "avg") == "avg"

    def compute(x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
        results = []
        for roi, number in zip(rois, batch.tolist(), strict=True):
            left, top, right, bottom = (roi * scale - (0.5 if half else 0.0)).unbind()
            wide, high = right - left, bottom - top
            if not half:
                wide, high = wide.clamp(min=1.0), high.clamp(min=1.0)
            rows = ratio or max(ceil(float(high.detach()) / height), 1)
            columns = ratio or max(ceil(float(wide.detach()) / width), 1)
            y = top + (torch.arange(height * rows, device=x.device, dtype=x.dtype) + 0.5) * high / (height * rows)
            z = left + (torch.arange(width * columns, device=x.device, dtype=x.dtype) + 0.5) * wide / (width * columns)
            parts = _corners(x[number], y, z)
            if mean:
                bins = sum(parts).reshape(-1, height, rows, width, columns)
                results.append(bins.mean(dim=(2, 4)))
            else:  # ONNX takes the maximum over the weighted corners, not over their sums
                bins = torch.stack(parts).amax(0).reshape(-1, height, rows, width, columns)
                results.append(bins.amax(dim=(2, 4)))
        return torch.stack(results) if results else x.new_zeros(0, x.shape[1], height, width)

    return compute


def _corners(image: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    """The four weighted neighbours of every sample [C, rows, columns]; samples far outside weigh nothing."""
    along = []
    for at, size in ((y, image.shape[1]), (z, image.shape[2])):
        valid = ((at >= -1.0) & (at <= size)).to(at.dtype)
        clamped = at.clamp(0, size - 1)
        low = clamped.detach().floor().long()
        share = clamped - low
        along.append([(low, (1 - share) * valid), ((low + 1).clamp(max=size - 1), share * valid)])
    return [image[:, row][:, :, column] * a.unsqueeze(1) * b for row, a in along[0] for column, b in along[1]]


@operator("MaxRoiPool", host=(1,))
def prepare_max_roi_pool(call: Call) -> Compute:
    """The maximum of every bin of whole pixels (Girshick, 2015); an empty bin gives 0."""
    height, width = call.attribute("pooled_shape")
    scale = call.attribute("spatial_scale", 1.0)

    def compute(x: Tensor, rois: Tensor) -> Tensor:
        results = []
        for number, *corners in rois.tolist():
            left, top, right, bottom = (floor(corner * scale + 0.5) for corner in corners)
            rows = _bins(top, bottom, height, x.shape[2])
            columns = _bins(left, right, width, x.shape[3])
            bins = [
                x[int(number), :, a:b, c:d].amax(dim=(1, 2)) if b > a and d > c else x.new_zeros(x.shape[1])
                for a, b in rows
                for c, d in columns
            ]
            results.append(torch.stack(bins, -1).reshape(-1, height, width))
        return torch.stack(results)

    return compute


def _bins(first: int, last: int, count: int, limit: int) -> list[tuple[int, int]]:
    size = max(last - first + 1, 1) / count
    found = []
    for number in range(count):
        begin, end = int(number * size) + first, ceil((number + 1) * size) + first
        found.append((min(max(begin, 0), limit), min(max(end, 0), limit)))
    return found


@operator("NonMaxSuppression", host=(2, 3, 4))
def prepare_suppression(call: Call) -> Compute:
    """The best boxes of every class, without those that overlap a better one: rows of batch, class, box."""
    centred = bool(call.attribute("center_point_box", 0))

    def compute(
        boxes: Tensor,
        scores: Tensor,
        most: Tensor | None = None,
        overlap: Tensor | None = None,
        least: Tensor | None = None,
    ) -> Tensor:
        limit = 0 if most is None else int(most)
        threshold = 0.0 if overlap is None else float(overlap)
        lowest = None if least is None else float(least)
        chosen: list[list[int]] = []
        if limit > 0:
            for batch in range(scores.shape[0]):
                ratios = _overlaps(boxes[batch].detach().double(), centred)
                for number in range(scores.shape[1]):
                    kept = _best(scores[batch, number].detach(), ratios, limit, threshold, lowest)
                    chosen += [[batch, number, box] for box in kept]
        return torch.tensor(chosen, dtype=torch.int64, device=boxes.device).reshape(-1, 3)

    return compute


def _best(scores: Tensor, ratios: Tensor, limit: int, threshold: float, lowest: float | None) -> list[int]:
    kept: list[int] = []
    for box in torch.sort(scores, descending=True, stable=True).indices.tolist():
        if len(kept) == limit or (lowest is not None and not float(scores[box]) > lowest):
            break
        if not kept or not bool((ratios[box, kept] > threshold).any()):
            kept.append(box)
    return kept


def _overlaps(boxes: Tensor, centred: bool) -> Tensor:
    """Intersection over union of all pairs."""
    if centred:
        centre, half = boxes[:, :2], boxes[:, 2:] / 2
        low, high = centre - half, centre + half
    else:
        low, high = torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])
    area = (high - low).prod(-1)
    inner = (torch.minimum(high[:, None], high[None]) - torch.maximum(low[:, None], low[None])).clamp(min=0).prod(-1)
    union = area[:, None] + area[None] - inner
    return torch.where(union > 0, inner / union, torch.zeros_like(union))
