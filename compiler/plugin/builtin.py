"""The plug-ins that ship with mopt: recipe name → `module:class`, so that none is imported before it is used."""

from __future__ import annotations

from typing import Final

BUILTIN: Final[dict[str, dict[str, str]]] = {
    "passes": {
        "cluster.expand": "mopt.passes.cluster.expand:Expand",
        "cluster.kmeans": "mopt.passes.cluster.kmeans:KMeans",
        "convert": "mopt.passes.convert.options:Convert",
        "convert.bfloat16": "mopt.passes.convert.bfloat16:Bfloat16",
        "convert.bind": "mopt.passes.convert.bind:Bind",
        "convert.float16": "mopt.passes.convert.float16:Float16",
        "convert.opset": "mopt.passes.convert.opset:Opset",
        "convert.tensorrt": "mopt.passes.convert.tensorrt:TensorRT",
        "distill.features": "mopt.passes.distill.features:Features",
        "distill.response": "mopt.passes.distill.response:Response",
        "prune.channels": "mopt.passes.prune.channels:Channels",
        "prune.heads": "mopt.passes.prune.heads:Heads",
        "prune.magnitude": "mopt.passes.prune.magnitude:Magnitude",
        "prune.nm": "mopt.passes.prune.nm:NM",
        "quantize.aware": "mopt.passes.quantize.aware:Aware",
        "quantize.dynamic": "mopt.passes.quantize.dynamic:Dynamic",
        "quantize.static": "mopt.passes.quantize.static:Static",
        "quantize.weights": "mopt.passes.quantize.weights:Weights",
        "simplify": "mopt.passes.simplify.simplify:Simplify",
        "simplify.rules": "mopt.passes.simplify.rules:Rules",
        "simplify.onnxoptimizer": "mopt.passes.simplify.onnxoptimizer:OnnxOptimizer",
        "simplify.onnxsim": "mopt.passes.simplify.onnxsim:OnnxSim",
        "tune": "mopt.passes.tune.tune:Tune",
    },
    "sources": {
        "onnx": "mopt.passes.convert.onnx_source:OnnxSource",
        "torch": "mopt.passes.convert.torch_source:TorchSource",
        "keras": "mopt.passes.convert.keras_source:KerasSource",
        "savedmodel": "mopt.passes.convert.savedmodel_source:SavedModelSource",
    },
    "data": {
        "python": "mopt.runtime.data.sources:PythonData",
        "npz": "mopt.runtime.data.sources:NpzData",
        "images": "mopt.runtime.data.sources:ImageFolder",
        "random": "mopt.runtime.data.sources:RandomData",
    },
    "losses": {
        "python": "mopt.runtime.judge.losses:PythonLoss",
        "cross_entropy": "mopt.runtime.judge.losses:CrossEntropy",
        "mse": "mopt.runtime.judge.losses:MeanSquaredError",
        "ctc": "mopt.runtime.judge.losses:Ctc",
        "kl": "mopt.runtime.judge.losses:KullbackLeibler",
    },
    "metrics": {
        "python": "mopt.runtime.judge.metrics:PythonMetric",
        "accuracy": "mopt.runtime.judge.metrics:Accuracy",
        "f1": "mopt.runtime.judge.metrics:F1",
        "cer": "mopt.runtime.judge.metrics:CharacterErrorRate",
        "wer": "mopt.runtime.judge.metrics:WordErrorRate",
        "exact": "mopt.runtime.judge.metrics:ExactMatch",
        "mse": "mopt.runtime.judge.metrics:MeanSquaredError",
        "cosine": "mopt.runtime.judge.metrics:Cosine",
        "cross_entropy": "mopt.runtime.judge.metrics:CrossEntropy",
    },
    "targets": {
        "ort": "mopt.runtime.ort_target:OrtTarget",
        "trt": "mopt.runtime.trt.target:TrtTarget",
    },
}
