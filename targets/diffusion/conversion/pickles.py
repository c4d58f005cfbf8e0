"""Reading files that others pickled, without running any of their code.

``torch.load(weights_only=True)`` covers states.  The pickles of EDM hold modules with their source code; here an
unpickler with a short list of allowed names turns every module into an inert tree of tensors and numbers.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.errors import UserError


class Inert:
    """What is left of a pickled module: the name of its class and its attributes."""

    def __init__(self, name: str = "", state: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.state: dict[str, Any] = dict(state or {})

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and buffers by the names ``state_dict`` would give them."""
        found: dict[str, Tensor] = {}
        for kind in ("_parameters", "_buffers"):
            values = self.state.get(kind) or {}
            found |= {f"{prefix}{name}": value.detach() for name, value in values.items() if value is not None}
        for name, child in (self.state.get("_modules") or {}).items():
            if isinstance(child, Inert):
                found |= child.tensors(f"{prefix}{name}.")
        return found


def _module(meta: Mapping[str, Any]) -> Inert:
    """In place of EDM's function that would execute ``meta["module_src"]``."""
    return Inert(str(meta["class_name"]), meta["state"])


def _container(name: str) -> type[Inert]:
    return type(name, (Inert,), {})


def _storage(content: bytes) -> Any:
    """In place of torch's reader of a storage, which would unpickle freely."""
    return torch.load(io.BytesIO(content), weights_only=True)


def _attributes() -> type[dict]:
    return type("Attributes", (dict,), {})


_DAMAGED = (pickle.UnpicklingError, EOFError, AttributeError, KeyError, IndexError, TypeError, ValueError)
"""What readers of pickles raise on bytes that are none."""

_ALLOWED: dict[tuple[str, str], Callable[[], Any]] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): lambda: _module,
    ("dnnlib.util", "EasyDict"): _attributes,
    ("collections", "OrderedDict"): lambda: OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): lambda: torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): lambda: torch._utils._rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): lambda: _storage,
    ("torch", "Size"): lambda: torch.Size,
    ("torch.nn.modules.container", "ModuleDict"): lambda: _container("ModuleDict"),
    ("torch.nn.modules.container", "ModuleList"): lambda: _container("ModuleList"),
    ("torch.nn.modules.container", "Sequential"): lambda: _container("Sequential"),
    ("builtins", "set"): lambda: set,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "scalar":
            import numpy as np

            return np._core.multiarray.scalar  # type: ignore[attr-defined]
        if (module, name) == ("numpy", "dtype"):
            import numpy as np

            return np.dtype
        if (module, name) not in _ALLOWED:
            raise UserError(
                f"the pickle wants to use {module}.{name}, which is not a tensor or a setting",
                "it is not read: convert it to safetensors on a machine and with code you trust",
            )
        return _ALLOWED[module, name]()


def read_modules(path: Path) -> Any:
    """The content of a pickle of modules, with every module an ``Inert``.

    Raises:
        UserError: it is no pickle, or wants anything that is not on the list.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file).load()
    except _DAMAGED as error:
        raise UserError(f"{path} cannot be read as a pickle: {type(error).__name__}: {error}", "replace it") from error


def read_state(path: Path) -> Mapping[str, Any]:
    """The state or checkpoint in a .pt, .pth, .bin or .safetensors file.

    Raises:
        UserError: damaged, or it holds more than tensors and containers of them.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is damaged: {error}", "replace it") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*_DAMAGED, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(
            f"{path} cannot be loaded as plain tensors: {type(error).__name__}: {first}",
            "a pickle that needs code is never run: save its state_dict as safetensors with code you trust",
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state", "save the network's state_dict")
    return content
