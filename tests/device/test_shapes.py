"""Shapes of networks, without what torch needs to draw weights."""

import subprocess
import sys


def test_normal_weights_are_not_drawn() -> None:
    program = """
import sys, torch
from torch import nn
from unclip.device.shapes import on_meta
with on_meta():
    layers = nn.Embedding(8, 4), nn.Linear(3, 4), nn.Conv2d(3, 4, 1)
    nn.init.normal_(layers[0].weight, std=0.02)
    nn.init.zeros_(layers[1].weight)
    layers[2].weight.data.uniform_(0, 1)
assert all(p.is_meta for layer in layers for p in layer.parameters())
assert "torch._dynamo" not in sys.modules
assert not nn.Linear(3, 4).weight.is_meta
"""
    subprocess.run([sys.executable, "-c", program], check=True)
