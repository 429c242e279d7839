"""Element types in three vocabularies: the language's words, numpy's and onnxruntime's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

_NUMPY: Final = {
    "f16": "float16", "f32": "float32", "f64": "float64",
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "bool": "bool", "str": "object",
}  # fmt: skip

_ONNXRUNTIME: Final = {
    "float16": "f16", "float": "f32", "double": "f64", "bfloat16": "bf16",
    "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "uint8": "u8", "uint16": "u16", "uint32": "u32", "uint64": "u64",
    "bool": "bool", "string": "str",
}  # fmt: skip


def numpy_dtype(word: str) -> np.dtype[Any]:
    """Return numpy's dtype for one of the language's words (`f32`).

    Raises:
        KeyError: numpy has no such type (`bf16` needs ml_dtypes, which onnx brings along, and is looked up there).
    """
    import numpy as np

    if word not in _NUMPY:
        import ml_dtypes

        names: dict[str, Any] = {"bf16": ml_dtypes.bfloat16}
        extension: np.dtype[Any] = np.dtype(names[word])
        return extension
    found: np.dtype[Any] = np.dtype(_NUMPY[word])
    return found


def is_element_type(word: str) -> bool:
    """Say whether `numpy_dtype` knows a word."""
    return word in _NUMPY or word == "bf16"


def from_onnxruntime(text: str) -> str:
    """Return the language's word for what onnxruntime calls `tensor(float)`; what is no tensor is left as it is."""
    inner = text.removeprefix("tensor(").removesuffix(")")
    return _ONNXRUNTIME.get(inner, text) if text.startswith("tensor(") else text


def from_numpy(dtype: np.dtype[Any]) -> str:
    """Return the language's word for a numpy dtype (`float32` → `f32`); an unknown one keeps numpy's name."""
    if dtype.kind in "OUS":
        return "str"
    words = {name: word for word, name in _NUMPY.items()}
    return words.get(dtype.name, {"bfloat16": "bf16"}.get(dtype.name, dtype.name))
