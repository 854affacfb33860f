"""U-Nets' steps computed by OpenVINO instead of torch, on CPUs: equal but for rounding.

A network is converted once, with its weights, and kept in the user's cache; conversion takes
seconds. It is then compiled for each number of images and each size that is asked for, which takes
a fraction of a second; captions may have any length. All that a request computes once stays in
torch, and so do priors, whose steps are products that wait for memory (`acceleration/packing.py`).

Shapes: N samples, C channels, H and W pixels, L context tokens, E width of the time embedding.
"""

import functools
import hashlib
import os
import shutil
import sys
import threading
import warnings
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from unclip import networks
from unclip.device.instructions import instructions
from unclip.device.shapes import on_meta
from unclip.device.threads import neighbours
from unclip.files import private_folder
from unclip.networks.unet import Attention, Context, UNet

_KEPT = 4  # compiled forms of a network, each of which holds its weights once more
_CACHE = 8 * 2**30  # bytes of converted networks; those that were used longest ago go first
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}
_MODULES = ("unet.py", "unet_config.py", "layers.py", "winograd.py")  # what a conversion is made of
_MISSING = "engine openvino needs a package that is not there: pip install 'unclip[openvino]'"
_MODEL = "network.xml"


def check_openvino(device: torch.device, dtype: torch.dtype) -> None:
    """Refuse what OpenVINO does not compute here.

    Raises:
        ValueError: it is not installed, or it is asked for another device or data type.
    """
    if device.type != "cpu":
        raise ValueError(f"engine openvino is for CPUs; on the device {device} leave engine out")
    if dtype not in _HINTS:
        said = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"engine openvino computes in fp32 and bf16, not in {said}: take one of them"
        )
    if dtype == torch.bfloat16 and dtype not in instructions().multiplied:
        raise ValueError(
            "engine openvino computes in bf16 where a CPU multiplies it, and this one does not: "
            "take fp32"
        )
    library()


@functools.cache
def library() -> Any:
    """The module `openvino`, without its telemetry.

    Its converter would write an identity into the user's home and send events; it does neither
    where the package that does so cannot be imported.

    Raises:
        ValueError: it is not installed.
    """
    name = "openvino_telemetry"
    before = sys.modules.get(name, name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError:
        raise ValueError(_MISSING) from None
    finally:
        del sys.modules[name]
        if before is not name:
            sys.modules[name] = cast(Any, before)
    return openvino


def version() -> str:
    """Of OpenVINO, such as 2026.4.1."""
    return str(library().__version__).partition("-")[0]


def accelerate(network: UNet) -> None:
    """Have OpenVINO compute the steps of `network`, whose weights do not change any more."""
    setattr(network, "_run", OpenVINOSteps(network))  # noqa: B010


def is_accelerated(network: nn.Module) -> bool:
    """Whether OpenVINO computes the steps of `network`."""
    return isinstance(vars(network).get("_run"), OpenVINOSteps)


def compiled(model: Any, dtype: torch.dtype) -> Any:
    """A converted network for as many threads as torch has here, and for all that compute side by
    side with this one."""
    settings = {
        "INFERENCE_PRECISION_HINT": _HINTS[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads() * neighbours(),
        "NUM_STREAMS": neighbours(),
        "ENABLE_CPU_PINNING": False,
        # Fused by generated kernels, static fp32 networks crash (2026.4.1), and are slower.
        "SNIPPETS_MODE": "DISABLE",
    }
    return _core().compile_model(model, "CPU", settings)


@dataclass(frozen=True)
class Variant:
    """What of a U-Net is converted.

    Args:
        finest: its finest level alone; what those below it give is an input, and no result.
        beside: with an input of features that are added to those of the first convolution.
    """

    finest: bool = False
    beside: bool = False


class OpenVINOSteps:
    """`UNet._run` of one network: what it converts and compiles, it does when it is first asked.

    Where a gradient is needed torch computes, as before.
    """

    def __init__(self, network: UNet) -> None:
        self._network, self._torch = network, network._run
        self._converted: dict[Variant, Any] = {}
        self._compiled: OrderedDict[tuple[Any, ...], _Compiled] = OrderedDict()
        self._lock = threading.Lock()

    def __deepcopy__(self, _: Any) -> NoReturn:
        raise ValueError("a network that OpenVINO computes cannot be copied: open the model anew")

    def __reduce__(self) -> NoReturn:
        raise ValueError("a network that OpenVINO computes cannot be pickled: open the model anew")

    def __call__(
        self, x: Tensor, emb: Tensor, context: Context | None, below: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `UNet._run`."""
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, emb)):
            return self._torch(x, emb, context, below)
        self._network.check_size(x)
        own, network = self._network.config.in_channels, self._network
        variant = Variant(below is not None, x.shape[1] > own)
        inputs = [x[:, :own], emb.expand(len(x), -1)]
        if variant.beside:
            assert network.beside is not None
            inputs.append(network.beside(x[:, own:]))
        first = len(inputs)
        attended = _of_context(network, context, len(x), variant)
        inputs += [*attended, *([] if below is None else [below])]
        arrays = [_array(tensor) for tensor in inputs]
        shapes = [[*array.shape] for array in arrays]
        for shape in shapes[first : first + len(attended)]:
            shape[1] = -1  # captions of any length
        with self._lock:
            ready = self._ready(shapes, variant)
        request = ready.take()
        made = request.infer(arrays, share_inputs=True)
        out, *rest = (torch.from_numpy(made[i]) for i in range(len(made)))
        ready.free.append(request)
        return out.to(x.dtype), rest[0] if below is None else below

    def _ready(self, shapes: list[list[int]], variant: Variant) -> "_Compiled":
        """For inputs of these shapes; made where there is none yet."""
        key = (*shapes[0], variant, torch.get_num_threads(), neighbours())
        if key in self._compiled:
            self._compiled.move_to_end(key)
            return self._compiled[key]
        model = self._model(variant).clone()
        model.reshape(dict(enumerate(shapes)))
        made = _Compiled(compiled(model, self._network.conv_in.weight.dtype))
        self._compiled[key] = made
        while len(self._compiled) > _KEPT:
            self._compiled.popitem(last=False)
        return made

    def _model(self, variant: Variant) -> Any:
        """The network for any shapes, from the cache where it is there."""
        if variant not in self._converted:
            self._converted[variant] = cached(self._network, variant)
        return self._converted[variant]


class _Compiled:
    """A compiled network, and its infer requests that nobody uses at the moment."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.free: list[Any] = []

    def take(self) -> Any:
        with suppress(IndexError):
            return self.free.pop()
        return self.model.create_infer_request()


class _Step(nn.Module):
    """What is converted: `_run` of a U-Net with tensors only for arguments and results."""

    def __init__(self, network: UNet, variant: Variant) -> None:
        super().__init__()
        self.network, self.variant = network, variant

    def forward(self, x: Tensor, emb: Tensor, *others: Tensor) -> Any:
        if self.variant.beside:
            added, *others = others  # type: ignore[assignment]
            self.network.beside = lambda _: added
            x = torch.cat([x, x[:, :1]], dim=1)  # a channel more, for the network to ask
        below = others[-1] if self.variant.finest else None
        layers, context = _attentions(self.network, self.variant), None
        if layers:
            pairs = zip(others[1::2], others[2::2], strict=False)
            context = Context(dict(zip(layers, pairs, strict=False)), others[0])
        out, made = self.network._run(x, emb, context, below)
        return out if self.variant.finest else (out, made)


def _attentions(network: UNet, variant: Variant) -> list[Attention]:
    """Its attention layers, perhaps those of the finest level alone."""
    parts = [network.down_blocks[0], network.up_blocks[-1]] if variant.finest else [network]
    return [layer for part in parts for layer in part.modules() if isinstance(layer, Attention)]


def _of_context(
    network: UNet, context: Context | None, count: int, variant: Variant
) -> list[Tensor]:
    """The mask (N, L), and keys and values (N, L, C) of every layer; nothing without layers."""
    layers = _attentions(network, variant)
    if context is None or not layers:
        return []
    pairs = [tensor for layer in layers for tensor in context.layers[layer]]
    mask = context.mask
    if mask is None:
        mask = torch.ones(count, pairs[0].shape[1], dtype=torch.bool)
    return [mask, *pairs]


def _array(tensor: Tensor) -> Any:
    tensor = tensor.detach()
    if tensor.dtype != torch.bool:
        tensor = tensor.float()
    return tensor.contiguous().numpy()


@functools.cache
def _core() -> Any:
    return library().Core()


def cached(network: UNet, variant: Variant) -> Any:
    """The converted network, read from the user's cache, or written there if that can be done."""
    folder = cache_folder() / _key(network, variant)
    if (folder / _MODEL).is_file():
        with suppress(RuntimeError):  # damaged: converted anew
            model = _core().read_model(folder / _MODEL)
            with suppress(OSError):
                os.utime(folder)
            return model
        shutil.rmtree(folder, ignore_errors=True)
    model = _converted(network, variant)
    with suppress(OSError, RuntimeError):  # without room for it, it is converted at each start
        folder.parent.mkdir(parents=True, exist_ok=True)
        with private_folder(folder) as private:
            library().save_model(model, private / _MODEL, compress_to_fp16=False)
            private.rename(folder)
        _prune(folder)
    return model


def cache_folder() -> Path:
    """Of converted networks."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "unclip" / "openvino"


def _key(network: UNet, variant: Variant) -> str:
    """Of all that a conversion depends on."""
    digest = hashlib.sha256(f"{version()} {torch.__version__} {variant}".encode())
    for name in _MODULES:
        digest.update((Path(networks.__file__).parent / name).read_bytes())
    digest.update(str(network.config).encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype}".encode())
        digest.update(memoryview(tensor.detach().contiguous().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()[:32]


def _prune(newest: Path) -> None:
    """Remove what was used longest ago, until the cache is small enough."""
    folders = sorted(newest.parent.iterdir(), key=lambda f: f.stat().st_mtime, reverse=True)
    size = 0
    for folder in folders:
        size += sum(file.stat().st_size for file in folder.iterdir())
        if size > _CACHE and folder != newest:
            shutil.rmtree(folder, ignore_errors=True)


def _converted(network: UNet, variant: Variant) -> Any:
    """The network in fp32, in which bf16 weights lose nothing, for inputs of any shape."""
    config, tokens = network.config, 3
    with on_meta():
        copy = UNet(config)
    weights = {name: tensor.float() for name, tensor in network.state_dict().items()}
    copy.load_state_dict(weights, assign=True)
    copy.requires_grad_(False).eval()
    side = config.sample_size
    inputs = [torch.zeros(2, config.in_channels, side, side), torch.zeros(2, config.time_embed_dim)]
    if variant.beside:
        inputs.append(torch.zeros(2, config.block_out_channels[0], side, side))
    context = None
    if config.cross_attention_dim is not None:
        hidden = torch.zeros(2, tokens, config.cross_attention_dim)
        context = copy._attended(hidden, torch.ones(2, tokens, dtype=torch.bool))
    # With gradients enabled convolutions are plain ones (`networks/winograd.py`).
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers that become constants, as they should
        everything = replace(variant, finest=False)
        whole = inputs + _of_context(copy, context, 2, everything)
        inputs += _of_context(copy, context, 2, variant)
        if variant.finest:
            inputs.append(_Step(copy, everything)(*whole)[1])
        traced = torch.jit.trace(_Step(copy, variant), tuple(inputs), check_trace=False)  # type: ignore[no-untyped-call]
        return library().convert_model(traced)
