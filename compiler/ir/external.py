"""External data: weights in files beside the model. Only files inside the model's own folder are opened."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from mopt.ir.errors import LoadError
from mopt.ir.mapped import Buffer, open_buffer, view_tensor


class ExternalFiles:
    """Opens the data files of one model, each once.

    Args:
        model: the model's path; data files must lie in its folder or below.
    """

    def __init__(self, model: Path) -> None:
        self._model = model
        self._base = model.parent.resolve()
        self._buffers: dict[Path, Buffer] = {}

    def view(self, tensor: ir.ExternalTensor) -> ir.TensorProtocol:
        """Return a tensor over the bytes that an external tensor points at.

        Raises:
            LoadError: the file is missing, outside the model's folder, or too short.
        """
        path = self._locate(tensor)
        if path not in self._buffers:
            try:
                self._buffers[path] = open_buffer(path)
            except OSError as error:
                raise LoadError(
                    f"{self._model}: the weights of `{tensor.name}` can't be read from {path}: {error.strerror}"
                ) from error
        try:
            return view_tensor(self._buffers[path], tensor.offset or 0, tensor.length, tensor)
        except (ValueError, TypeError) as error:
            raise LoadError(
                f"{self._model}: the weights of `{tensor.name}` in {path.name} do not fit: {error}; the data file is "
                "truncated or belongs to another model"
            ) from error

    def _locate(self, tensor: ir.ExternalTensor) -> Path:
        location = str(tensor.location)
        relative = Path(location)
        if not location or "\0" in location:
            raise LoadError(f"{self._model}: the external weights of `{tensor.name}` have no file name")
        path = self._base / relative
        try:
            real = path.resolve()
        except (OSError, RuntimeError) as error:
            raise LoadError(f"{self._model}: the data file `{location}` can't be followed: {error}") from error
        if relative.is_absolute() or not real.is_relative_to(self._base):
            raise LoadError(
                f"{self._model}: the weights of `{tensor.name}` point at `{location}`, outside the model's folder; "
                "for safety only files beside the model are read: put the data file there and save the model anew"
            )
        if not real.is_file():
            raise LoadError(
                f"{self._model}: the data file `{location}` with the weights of `{tensor.name}` is missing; it must "
                "lie beside the model"
            )
        return real
