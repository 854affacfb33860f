"""Networks made of shapes alone, whose weights come from elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DRAWN = (torch.Tensor.normal_, torch.Tensor.uniform_)


@contextmanager
def on_meta() -> Iterator[None]:
    """A block in which tensors are made on the device "meta", and random weights are not drawn.

    torch would draw normal numbers there through its decompositions, for which it imports its
    compiler: 1.5 s of a start, for nothing.
    """
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWN:
            return args[0]
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
