"""Other tools' static int8 of the same graph on the same samples: onnxruntime.quantization, and NNCF.

Neural Compressor has no ONNX back end any more (3.10); its former one, `onnx-neural-compressor` 1.0, needs NumPy 1, for
which today's onnx and onnxruntime are not made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

Quantise = Callable[[Path, Path, Sequence[Mapping[str, Any]]], None]


def onnxruntime(source: Path, path: Path, samples: Sequence[Mapping[str, Any]], **options: Any) -> None:
    """onnxruntime's QDQ quantiser, weights int8 per channel, activations uint8."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(samples)

        def get_next(self) -> Mapping[str, Any] | None:
            return next(self.left, None)

    quantize_static(
        source, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8, **options,
    )  # fmt: skip


def nncf(source: Path, path: Path, samples: Sequence[Mapping[str, Any]], **options: Any) -> None:
    """NNCF's post-training quantisation of an ONNX model, with its fast bias correction."""
    import nncf as package

    data = package.Dataset(list(samples))
    onnx.save(package.quantize(onnx.load(source), data, subset_size=len(samples), **options), path)


def peers(*, transformer: bool = False) -> dict[str, Quantise]:
    """Return the ways to quantise, by what reports call them.

    Args:
        transformer: also NNCF told that the model is one.
    """
    from onnxruntime.quantization import CalibrationMethod

    def with_options(method: Callable[..., None], **options: Any) -> Quantise:
        return lambda source, path, samples: method(source, path, samples, **options)

    products = ["Conv", "MatMul", "Gemm"]
    found = {
        "onnxruntime, all operators": with_options(onnxruntime),
        "onnxruntime, products": with_options(onnxruntime, op_types_to_quantize=products),
        "onnxruntime, products, entropy": with_options(
            onnxruntime, op_types_to_quantize=products, calibrate_method=CalibrationMethod.Entropy
        ),
        "nncf": with_options(nncf),
    }
    if transformer:
        import nncf as package

        found["nncf, transformer"] = with_options(nncf, model_type=package.ModelType.TRANSFORMER)
    return found


def timed(quantise: Quantise, source: Path, path: Path, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Quantise by a peer; return the seconds, or why it fails."""
    start = time.perf_counter()
    try:
        quantise(source, path, samples)
        onnx.load(path)
    except Exception as error:
        return {"fails": f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"}
    return {"seconds": time.perf_counter() - start}
