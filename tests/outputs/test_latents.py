"""Latents beside the pipeline that made them; tests/pipeline has what a pipeline does with them."""

import pytest
import torch

from unclip import Latents, Settings


def test_latents_say_how_they_lead_back() -> None:
    latents = Latents(torch.randn(1, 4), torch.randn(1, 3, 8, 8), steps=20)
    asked = Settings(eta=0.5)
    assert latents.suiting(asked) == asked.for_reconstruction(20)
    assert latents.suiting(asked).eta == 0.5
    with pytest.raises(ValueError, match="settings must be a Settings, not int"):
        latents.suiting(3)
