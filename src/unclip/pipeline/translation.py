"""Arguments of a call as diffusers' users type them: what they mean here, or what to type instead.

docs/from_diffusers.md is the whole table. Nothing is ignored: an argument that would do nothing is
refused in a sentence.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from unclip.checks import shown, whole_number

_TEXT = "captions are given as text, and image embeddings to pipe.decode_embeddings"
_PICTURES = (
    "images go to pipe.vary(image), pipe.edit(image, prompt) or pipe.inpaint(image, prompt, mask)"
)
_SAMPLER = "the sampler's timesteps are chosen by their number, sampler=… and spacing=…"
EXPLAINED: Mapping[str, str] = {
    "num_inference_steps": "each stage has its own number of steps: prior_num_inference_steps, "
    "decoder_num_inference_steps and super_res_num_inference_steps, or steps='fast', 'default' or "
    "'paper' for all",
    "guidance_scale": "there are two: prior_guidance_scale, towards the caption, and "
    "decoder_guidance_scale, towards z_i and the caption; upsamplers have none",
    "latents": "each stage begins with its own: prior_latents, decoder_latents and "
    "super_res_latents",
    "image": _PICTURES,
    "strength": "pipe.invert finds an image's latents, and pipe.vary(latents, eta=…) varies it",
    "mask_image": "pipe.inpaint(image, prompt, mask) calls it mask",
    "image_embeddings": "pipe.decode_embeddings takes them",
    **dict.fromkeys(("prompt_embeds", "text_model_output", "text_attention_mask"), _TEXT),
    **dict.fromkeys(("negative_prompt_embeds", "prompt_2", "negative_prompt_2"), _TEXT),
    **dict.fromkeys(("timesteps", "sigmas"), _SAMPLER),
    "callback": "callback_on_step_end has taken its place, in diffusers too",
    "callback_steps": "callback_on_step_end is called after every step",
    "cross_attention_kwargs": "attention has no processors here",
    "clip_skip": "the decoder reads the caption's last layer, which it was trained with",
    "ip_adapter_image": _PICTURES,
}
"""Arguments of other pipelines that have no meaning here, and what does what was perhaps meant."""


def translated(arguments: Mapping[str, Any], sizes: Sequence[int] | None) -> dict[str, Any]:
    """A call's arguments by the names that they have here.

    Args:
        sizes: pixels of a side of the square images that the model makes; None where the result's
            size follows from an image.

    Raises:
        ValueError: one is known, but has no meaning here; a size that the model does not have.
    """
    for name in arguments:
        if name in EXPLAINED:
            raise ValueError(f"there is no {name} here: {EXPLAINED[name]}")
    given = dict(arguments)
    sides = {name: given.pop(name) for name in ("height", "width") if name in given}
    sides = {name: side for name, side in sides.items() if side is not None}
    if not sides:
        return given
    if sizes is None:
        raise ValueError("height and width follow from the image here, and size=… from the model")
    asked = {whole_number(side, name) for name, side in sides.items()}
    if given.get("size") is not None:
        asked.add(whole_number(given["size"], "size"))
    if len(asked) > 1 or not asked <= set(sizes):
        said = ", ".join(f"{name} {shown(side)}" for name, side in sides.items())
        made = " or ".join(f"{size} × {size}" for size in sizes)
        raise ValueError(f"this model makes images of {made} pixels, not of {said}")
    return given | {"size": asked.pop()}


_NOTHING = {
    "use_safetensors": (True, None),
    "safety_checker": (None,),
    "requires_safety_checker": (True, False),
    "low_cpu_mem_usage": (True, False),
    "force_download": (False,),
    "device_map": (None,),
    "custom_pipeline": (None,),
    "trust_remote_code": (False, None),
    "feature_extractor": (None,),
}
"""Of `from_pretrained`: the values that ask for nothing else than what happens anyway."""
_INSTEAD = {
    "use_safetensors": "weights are read as safetensors only: pickles can run code",
    "device_map": "device= says where the model is, and offload=True keeps it on the disk",
    "force_download": "remove the model from the cache (`hf cache rm`) to fetch it anew",
}


def check_opening(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of diffusers' `from_pretrained` that would change something there.

    Raises:
        ValueError: one would, or is unknown.
    """
    for name, value in arguments.items():
        if name in _NOTHING and any(value is known for known in _NOTHING[name]):
            continue
        if name in _INSTEAD:
            raise ValueError(f"{name} is {shown(value)}: {_INSTEAD[name]}")
        raise ValueError(f"from_pretrained has no argument {shown(name)}")
