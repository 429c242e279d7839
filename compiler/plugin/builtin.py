"""The plug-ins that ship with mopt: recipe name → `module:class`, so that none is imported before it is used."""

from __future__ import annotations

from typing import Final

BUILTIN: Final[dict[str, dict[str, str]]] = {
    "passes": {
        "convert": "mopt.passes.convert.options:Convert",
        "convert.float16": "mopt.passes.convert.float16:Float16",
        "convert.opset": "mopt.passes.convert.opset:Opset",
        "prune.magnitude": "mopt.passes.prune.magnitude:Magnitude",
        "quantize.dynamic": "mopt.passes.quantize.dynamic:Dynamic",
        "simplify": "mopt.passes.simplify.simplify:Simplify",
        "simplify.rules": "mopt.passes.simplify.rules:Rules",
        "simplify.onnxoptimizer": "mopt.passes.simplify.onnxoptimizer:OnnxOptimizer",
        "simplify.onnxsim": "mopt.passes.simplify.onnxsim:OnnxSim",
    },
    "sources": {
        "onnx": "mopt.passes.convert.onnx_source:OnnxSource",
        "torch": "mopt.passes.convert.torch_source:TorchSource",
        "keras": "mopt.passes.convert.keras_source:KerasSource",
        "savedmodel": "mopt.passes.convert.savedmodel_source:SavedModelSource",
    },
    "data": {
        "python": "mopt.runtime.data_sources:PythonData",
        "npz": "mopt.runtime.data_sources:NpzData",
        "images": "mopt.runtime.data_sources:ImageFolder",
        "random": "mopt.runtime.data_sources:RandomData",
    },
    "losses": {
        "python": "mopt.runtime.losses:PythonLoss",
        "cross_entropy": "mopt.runtime.losses:CrossEntropy",
        "mse": "mopt.runtime.losses:MeanSquaredError",
        "ctc": "mopt.runtime.losses:Ctc",
        "kl": "mopt.runtime.losses:KullbackLeibler",
    },
    "metrics": {
        "python": "mopt.runtime.metrics:PythonMetric",
        "accuracy": "mopt.runtime.metrics:Accuracy",
        "f1": "mopt.runtime.metrics:F1",
        "cer": "mopt.runtime.metrics:CharacterErrorRate",
        "wer": "mopt.runtime.metrics:WordErrorRate",
        "exact": "mopt.runtime.metrics:ExactMatch",
        "mse": "mopt.runtime.metrics:MeanSquaredError",
        "cosine": "mopt.runtime.metrics:Cosine",
        "cross_entropy": "mopt.runtime.metrics:CrossEntropy",
    },
    "targets": {
        "ort": "mopt.runtime.ort_target:OrtTarget",
        "trt": "mopt.runtime.trt_target:TrtTarget",
    },
}
