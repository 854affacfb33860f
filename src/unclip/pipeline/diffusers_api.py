"""What users of diffusers' pipelines call on one, here: methods that draw no image.

docs/from_diffusers.md is the whole table; arguments of a call are in `translation.py`.
"""

import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch

from unclip.checks import Notice, of_kind
from unclip.config import one_of, suggest
from unclip.pipeline.components import components, description
from unclip.pipeline.moving import move, wanted
from unclip.pipeline.saving import is_offloaded_model, save_pretrained
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import DecoderStage
from unclip.stages.prior import Prior
from unclip.stages.upsampler import UpsamplerStage
from unclip.storage.hub import UPLOADING, upload

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

_SAMPLER = "a sampler is chosen for a call: sampler='ddpm', 'ddim', 'dpm++' and so on"
NEVER_SET = {
    "scheduler": _SAMPLER,
    **{f"{stage}_scheduler": _SAMPLER for stage in ("prior", "decoder", "super_res")},
    "_guidance_scale": "guidance_interval=(lowest, highest) says at which noise levels it acts",
    "safety_checker": "there is none",
}
"""Attributes that diffusers' users set, which would decide nothing here."""
_KINDS: dict[str, tuple[Any, Any, str, str]] = {
    "clip": (None, FrozenCLIP, "clip", "a FrozenCLIP"),
    "decoder": (None, DecoderStage, "decoder", "a DecoderStage"),
    "priors": (dict, Prior, "a prior", "a stage that draws embeddings"),
    "upsamplers": (list, UpsamplerStage, "an upsampler", "an UpsamplerStage"),
}
"""Stages by attribute: what holds several, and what each is."""
NEEDLESS = {
    "attention_slicing": "attention is computed by torch's own kernels, which keep no large matrix",
    "xformers_memory_efficient_attention": "torch's own attention is as frugal",
    "vae_slicing": "there is no VAE; batch_size says how many images are computed at once",
    "vae_tiling": "there is no VAE; large images are computed in tiles by themselves",
    "freeu": "the U-Net is used as it was trained",
}
"""What is switched on or off with `enable_…` and `disable_…`: without an effect here, and why."""


class DiffusersAPI:
    """Mixed into `Pipeline`, whose stages it asks."""

    _callback_tensor_inputs = ("latents", "x", "x0")

    def to(
        self,
        *where: Any,
        device: str | int | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        silence_dtype_warnings: bool = False,
        non_blocking: bool = False,
    ) -> Self:
        """Move the networks, in place: `to("cuda")`, `to(torch.bfloat16)`, both in any order. It
        returns when they are there, whatever the last two arguments say.

        Raises:
            ValueError: this machine has no such device or precision; the model is offloaded or in
                int8.
        """
        pipe = cast("Pipeline", self)
        move(pipe, *wanted(where, device, dtype, pipe.device))
        return self

    # ---- progress ----------------------------------------------------------------------------

    def set_progress_bar_config(self, **config: Any) -> None:
        """Arguments of tqdm for the bars of the following calls: `disable=True`, `desc="…"` and so
        on. Left out, a bar is shown on a terminal and in a notebook only."""
        self._progress = config

    def progress_bar(self, iterable: Iterable[Any] | None = None, total: int | None = None) -> Any:
        """tqdm's, as it was configured; over sampling steps of all stages and images in a call."""
        from tqdm.auto import tqdm

        shows = "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
        config = {"disable": not shows, "unit": "step", **getattr(self, "_progress", {})}
        return tqdm(iterable, total=total, **config)

    # ---- what it is made of ------------------------------------------------------------------

    @property
    def components(self) -> dict[str, Any]:
        """Networks, tokenizer and configurations by the names that they have in a model folder."""
        return components(cast("Pipeline", self))

    def __repr__(self) -> str:
        return description(cast("Pipeline", self))

    if not TYPE_CHECKING:  # or every attribute would be known to a type checker

        def __getattr__(self, name: str) -> Any:
            """Components by their names, but for those that are stages."""
            if name.startswith("_"):
                raise AttributeError(name)
            for verb in ("enable_", "disable_"):
                if name.removeprefix(verb) in NEEDLESS and name.startswith(verb):
                    return _needless(name, NEEDLESS[name.removeprefix(verb)])
            parts = _parts(self)
            if name in parts:
                return parts[name]
            raise AttributeError(
                f"a {type(self).__name__} has no attribute {name!r}{suggest(name, parts)}"
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in NEVER_SET:
            raise ValueError(f"{name} cannot be set: {NEVER_SET[name]}")
        if name[:1] != "_" and name not in vars(self) and name in _parts(self):
            raise ValueError(f"{name} cannot be set: a Pipeline is made of its stages")
        if name in _KINDS:
            check_stages(name, value)
        super().__setattr__(name, value)

    # ---- memory ------------------------------------------------------------------------------

    def enable_model_cpu_offload(self, *_: Any, **__: Any) -> None:
        """Nothing for a model that was opened with `offload=True`; any other says so.

        Raises:
            ValueError: this one was not.
        """
        if not is_offloaded_model(cast("Pipeline", self)):
            raise ValueError(
                "weights stay on the disk from the start: Pipeline.from_pretrained(…, offload=True)"
            )

    enable_sequential_cpu_offload = enable_model_cpu_offload

    def maybe_free_model_hooks(self) -> None:
        """Nothing: no model has hooks."""

    # ---- the Hub -----------------------------------------------------------------------------

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        safe_serialization: bool = True,
        push_to_hub: bool = False,
        **hub: Any,
    ) -> None:
        """Write the model as it is loaded, in the precision that it is loaded in.

        Another model in the folder is replaced: nothing of it is opened any more. What opening
        never reads, such as a judge, stays.

        diffusers opens the folder too, once its loader is mended (docs/published_models.md).

        Args:
            safe_serialization: must be true: weights are never pickled.
            push_to_hub: whether it is uploaded too, with the arguments `hub`, see `push_to_hub`; to
                a repository of the folder's name if they have no `repo_id`.

        Raises:
            ValueError: the model is offloaded or in int8; the folder cannot be written, or the disk
                is full: what was there before is then still there, whole.
        """
        if safe_serialization is not True:
            raise ValueError("weights are written as safetensors only: pickles can run code")
        for name in hub:
            one_of(name, "argument of save_pretrained", UPLOADING)
        if hub and not of_kind(push_to_hub, bool, "push_to_hub", "True or False"):
            raise ValueError(f"{', '.join(hub)}: these are for push_to_hub=True")
        save_pretrained(cast("Pipeline", self), folder)
        if push_to_hub:
            upload(Path(folder), hub.pop("repo_id", Path(folder).name), **hub)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str = "Upload a model of unclip",
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the model to the Hugging Face Hub, which nothing else ever does.

        Args:
            repo_id: "owner/model", made if it is not there.
            private: whether one that is made is; None is the owner's default.
            token: left out, that of `hf auth login` or HF_TOKEN.
            create_pr: as a pull request, for somebody else's model.

        Returns:
            The address of the commit.

        Raises:
            ValueError: the model cannot be saved; the Hub refuses it, or is out of reach.
        """
        import tempfile

        with tempfile.TemporaryDirectory() as place:
            save_pretrained(cast("Pipeline", self), Path(place) / "model")
            return upload(Path(place) / "model", repo_id, commit_message, private, token, create_pr)


def check_stages(name: str, value: Any) -> None:
    """Refuse what can be no stage, or no stages, of a pipeline.

    Raises:
        ValueError: it is of another kind.
    """
    holder, kind, called, wanted = _KINDS[name]
    if holder is not None:
        of_kind(value, holder, name, f"a {holder.__name__}")
    several = value.values() if isinstance(value, dict) else value
    for one in [value] if holder is None else several:
        of_kind(one, kind, called, wanted)


def _parts(pipe: Any) -> dict[str, Any]:
    """Its components, once it has all its stages."""
    return components(pipe) if "upsamplers" in vars(pipe) else {}


def _needless(name: str, why: str) -> Callable[..., None]:
    def method(*_: Any, **__: Any) -> None:
        warnings.warn(f"{name} does nothing here: {why}", Notice, stacklevel=2)

    return method
