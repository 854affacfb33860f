"""The caller's `callback_on_step_end`, as diffusers' pipelines have it, for samplers.

It is called as (pipeline, step, timestep, state). If it returns a dict, sampling goes on with the
"latents" in it (or "x", as the state is called here); anything else that it returns is ignored.
`pipeline._interrupt = True`, said in it or by another thread, ends the call after this step.

Shapes: N samples, ... the dimensions of one.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor

from unclip.diffusion import samplers
from unclip.diffusion.prediction import Prediction
from unclip.outputs.latents import dense

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

Callback = Callable[["Pipeline", int, float, dict[str, Any]], Any]
TENSORS = ("latents", "x", "x0")
"""What is in the state, whatever `callback_on_step_end_tensor_inputs` asks for."""
_STATE = ("latents", "x")


class Hooks:
    """Makes the callback of each stage.

    Args:
        images: how many are computed at once.
        bar: a progress bar, which each step moves on by as many.
        turn: held while the callback is called; several can sample at the same time.
    """

    def __init__(
        self,
        pipeline: Any,
        callback: Callback | None,
        images: int,
        bar: Any,
        turn: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.pipeline, self.callback, self.images, self.bar = pipeline, callback, images, bar
        self.turn = turn or nullcontext()

    def __call__(self, stage: str) -> samplers.Callback:
        """For "prior", "decoder", "super_res" or "inversion"."""

        def hook(i: int, t: float, x: Tensor, prediction: Prediction) -> Tensor:
            changed = None
            if self.callback is not None:
                state: dict[str, Any] = {"stage": stage, "x0": prediction.x0, "images": self.images}
                state |= dict.fromkeys(_STATE, x)
                with self.turn:
                    changed = _changed(self.callback(self.pipeline, i, t, state), x)
            self.bar.update(self.images)
            after = x if changed is None else changed
            if self.pipeline.interrupt:
                raise samplers.Stop(after, prediction.x0 if changed is None else changed)
            return after

        return hook


def _changed(returned: Any, x: Tensor) -> Tensor | None:
    """What the callback put in x's place (N, ...), if it did."""
    if not isinstance(returned, dict):
        return None
    for name in _STATE:
        new = returned.get(name, x)
        if new is x:
            continue
        if isinstance(new, Tensor):
            new = dense(new, f"the {name!r} that callback_on_step_end returned")
        if not isinstance(new, Tensor) or new.shape != x.shape or not new.is_floating_point():
            what = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise ValueError(
                f"callback_on_step_end returned {name!r} {what}; it must be a tensor of floats of "
                f"the shape {tuple(x.shape)}"
            )
        return new.to(x)
    return None
