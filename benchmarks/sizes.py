"""Parameters of every stage at every size, counted on the meta device: no memory, no training.

python benchmarks/sizes.py

Prints the table of docs/training.md. Widths of embeddings and captions are those of the CLIP of the
same size, the small one's where there is none.
"""

from typing import Any

import torch

from unclip.networks.clip_config import CLIP_SIZES, CLIPConfig
from unclip.stages.catalogue import STAGES
from unclip.stages.spec import parse_recipe

SHOWN = ("tiny", "mini", "small", "medium", "large", "karlo", "paper")


def parameters(stage: str, size: str) -> int | None:
    """Of the stage's network; None where it has no such size."""
    spec = STAGES[stage]
    network: Any = spec.recipe.network
    known = getattr(network, "SIZES", CLIP_SIZES if hasattr(network, "size") else ())
    if spec.network is None or size not in known:
        return None
    recipe = parse_recipe(spec, {"network": {"size": size}}, "sizes")
    text = CLIPConfig.preset(size if size in CLIP_SIZES else "small").text
    with torch.device("meta"):
        built = spec.network(recipe.network, text, recipe.data.size)
    return sum(p.numel() for p in built.parameters())


def table() -> str:
    """Markdown, a stage a line, in millions of parameters."""
    lines = [f"| | {' | '.join(f'`{size}`' for size in SHOWN)} |", f"|---|{'---:|' * len(SHOWN)}"]
    for stage in STAGES:
        counts = [parameters(stage, size) for size in SHOWN]
        if any(counts):
            cells = ["" if count is None else _millions(count) for count in counts]
            lines.append(f"| `{stage}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _millions(count: int) -> str:
    millions = count / 1e6
    return f"{millions:,.0f}" if millions >= 10 else f"{millions:.2g}"


if __name__ == "__main__":
    print(table())
