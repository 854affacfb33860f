"""What makes features of images, by name or by path.

A number that compares features says nothing without the extractor: its name, and a hash of its
weights and of how images are prepared for it, belong to every result. Images of any size are
brought to the extractor's by the project's own preprocessing (`networks/preprocessing.py`): floats,
antialiased, the shorter side first and then the middle.

Shapes: N images, H × W pixels, D width of features.
"""

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from unclip.acceleration.offload import is_offloaded
from unclip.checks import Notice, of_kind, printable, shown
from unclip.config import to_mapping
from unclip.device.precision import device_named
from unclip.files import MAX_CONFIG, as_path, read_json
from unclip.lazy import imported
from unclip.networks.preprocessing import ImageProcessorConfig, preprocess
from unclip.storage.folder import check_links
from unclip.storage.weights import fingerprint_of

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

NAMED: dict[str, Any] = {
    "efficientnet-lite0": "unclip.evaluation.features.efficientnet:open_published",
    "judge": "unclip.evaluation.features.judge:open_bundled",
}
"""Extractors that have a name, beside "clip": () -> `Parts`. All others are folders."""
FOLDERS: dict[str, Any] = {
    "clip": "unclip.evaluation.features.clip:open_clip",
    "vit": "unclip.evaluation.features.vit:open_vit",
    "dinov2": "unclip.evaluation.features.vit:open_dinov2",
    "dinov2_with_registers": "unclip.evaluation.features.vit:open_dinov2",
    "inception_v3": "unclip.evaluation.features.inception:open_inception",
    "efficientnet-lite0": "unclip.evaluation.features.efficientnet:open_folder",
}
"""`model_type` of a folder's config.json → (folder, its config) → `Parts`."""


class Extractor(Protocol):
    """What makes features.

    Attributes:
        name: as results say it.
        hash: 16 hexadecimal digits for weights, their precision, preprocessing and layer.
        size: pixels a side that the network sees.
        dimensions: D.
    """

    @property
    def name(self) -> str: ...
    @property
    def hash(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def dimensions(self) -> int: ...

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] → features (N, D), fp32, on the CPU."""
        ...


@dataclass(frozen=True)
class Parts:
    """What an extractor is made of.

    Attributes:
        network: preprocessed images (N, 3, n, n) → features (N, D).
        processor: how they are preprocessed.
        dimensions: D.
        layer: which of the network's outputs it is, in a few words.
    """

    network: nn.Module
    processor: ImageProcessorConfig
    dimensions: int
    layer: str


class NetworkExtractor:
    """An `Extractor` of a network and the preprocessing of its images."""

    def __init__(self, name: str, parts: Parts, device: torch.device) -> None:
        self.name = name
        self.dimensions = parts.dimensions
        self.layer = parts.layer
        self.network = parts.network.requires_grad_(False).eval()
        self.device = device
        self._processor = parts.processor
        if is_offloaded(self.network):
            self(torch.zeros(1, 3, self.size, self.size))  # reads its weights
        else:
            self.network.to(device)
        kinds = sorted({str(one.dtype) for one in self.network.parameters()})
        said = [fingerprint_of([self.network.state_dict()]), parts.layer, *kinds]
        said.append(json.dumps(to_mapping(parts.processor), sort_keys=True))
        self.hash = sha256("\n".join(said).encode()).hexdigest()[:16]

    @property
    def size(self) -> int:
        crop = self._processor.crop_size
        assert isinstance(crop, Mapping)
        return int(crop["height"])

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        of_kind(images, Tensor, "images", "a tensor")
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"images of shape {tuple(images.shape)} and {images.dtype} have no features; give "
                "floats (N, 3, H, W) in [-1, 1]"
            )
        features: Tensor = self.network(preprocess(images.to(self.device), self._processor))
        return features.float().cpu()


def open_extractor(
    name: str | Path,
    pipeline: "Pipeline | None" = None,
    device: str | torch.device = "auto",
) -> "NetworkExtractor":
    """An extractor by name, or that of a folder.

    Args:
        name: "clip" or one of `NAMED`; or a folder with config.json and safetensors weights (a
            CLIP, a ViT, a DINOv2, an Inception), or a model folder, whose CLIP is taken.
        pipeline: whose CLIP "clip" is; that of the bundled model if left out.
        device: where it computes; a pipeline's CLIP computes where the pipeline does.

    Raises:
        ValueError: there is no such extractor, or its folder holds another kind of network, or not
            all of it.
    """
    where = device_named(device)
    if name == "clip":
        from unclip.evaluation.features.clip import of_model, of_pipeline
        from unclip.storage.folder import bundled

        if pipeline is not None:
            return NetworkExtractor("clip", of_pipeline(pipeline), pipeline.device)
        return NetworkExtractor("clip", of_model(bundled("model")), where)
    if isinstance(name, str) and name in NAMED:
        parts: Parts = imported(NAMED[name])()
        return NetworkExtractor(name, parts, where)
    return _from_folder(as_path(name, "the extractor"), where)


def open_extractors(
    names: Sequence[str], pipeline: "Pipeline", paths: Mapping[str, Path] | None = None
) -> dict[str, NetworkExtractor]:
    """Several by the names that they are asked for by; each has a name of its own in results.

    A network that is named twice is opened once, with a notice.

    Args:
        paths: of a name, the folder that is meant by it.

    Raises:
        ValueError: see `open_extractor`.
    """
    found: dict[str, NetworkExtractor] = {}
    for asked in dict.fromkeys(names):
        one = open_extractor((paths or {}).get(asked, asked), pipeline, pipeline.device)
        same = next((name for name, other in found.items() if other.hash == one.hash), None)
        if same is not None:
            said = f"{printable(asked)} is the same network as {printable(same)}: measured once"
            warnings.warn(said, Notice, stacklevel=2)
            continue
        if any(other.name == one.name for other in found.values()):
            one.name = printable(asked)
        found[asked] = one
    return found


def _from_folder(folder: Path, device: torch.device) -> NetworkExtractor:
    if not folder.is_dir():
        raise ValueError(
            f"there is no extractor {shown(str(folder))}: give one of "
            f"{', '.join(('clip', *NAMED))}, or a folder with config.json and safetensors weights"
        )
    name = folder.resolve().name
    if (folder / "model_index.json").is_file():
        from unclip.evaluation.features.clip import of_model

        return NetworkExtractor(name, of_model(folder), device)
    check_links(folder, *folder.glob("*"))
    config = read_json(folder / "config.json", MAX_CONFIG)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FOLDERS:
        raise ValueError(
            f"{folder}: its config.json says model_type {shown(kind)}, and extractors are "
            f"{', '.join(FOLDERS)}"
        )
    opened: Callable[[Path, dict[str, Any]], Parts] = imported(FOLDERS[kind])
    return NetworkExtractor(name, opened(folder, config), device)


def features_of(extractor: Extractor, batches: Iterable[Tensor]) -> Tensor:
    """Features (N, D) of batches of images (n, 3, H, W) in [-1, 1].

    Raises:
        ValueError: there is no image.
    """
    found = [extractor(images) for images in batches]
    if not found:
        raise ValueError("there are no images to take features of")
    return torch.cat(found)
