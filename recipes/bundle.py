"""Put a trained model folder into the package: bf16 weights, and a card with what was measured.

python recipes/bundle.py models/bundled --note "what it was trained on, and for how long"

Measures composition and retrieval with the bundled judge first; nothing is replaced before that.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from unclip.diffusion.registry import SAMPLERS
from unclip.files import write_text
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import STAGES
from unclip.storage.folder import bundled

CARD = """---
license: apache-2.0
pipeline_tag: text-to-image
library_name: unclip
---

# The bundled model

A small unCLIP: captions of one or two plain shapes, in eleven colours, on six kinds of background,
to images of {size} px (base {base} px). It shows what the code does and is not meant for more: it
knows no other words, and everything that it has ever seen was drawn by `unclip.data.world`.

- **Data**: the built-in world, shapes only, at most two objects, medium and large, plain texture
  and style; combinations of the held-out split were never shown.
- **Recipes**: `recipes/bundled-*.toml`; `docs/experiments.md` says where runs differed from them.
- **Training**: {note}
- **Parameters**: {parameters}
- **Licence**: Apache-2.0, weights and data alike.

## Quality

Captions of held-out scenes (pairs of shapes, or of shape and colour, that training never showed),
default steps, measured on {date} with

```sh
unclip evaluate composition -n {n}
unclip evaluate clip
```

| right | generated | real images, by the same judge |
|---|---|---|
{composition}

The judge is a detector trained on ground truth (`evaluation/judge/`); it does not know CLIP.
Intervals are 95 % (Wilson).

```
{retrieval}
```

## Limits

Read the tables: what they say of shapes, relations and binding is what you will see. Single
objects, colours and backgrounds are nearly always right, two objects in their own colours mostly;
where each of them stands is wrong more often. The last two rows say how far CLIP's text tower knows
what words are tied to, beyond the words; prior and decoder read their captions through it.
Small objects, more than two of them, textures, styles and emoji are outside its world altogether.
"""


def evaluate(kind: str, model: Path, *flags: str) -> tuple[dict[str, object], str]:
    """The report and the table of `unclip evaluate`."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "unclip.interfaces.cli", "evaluate", kind]
        flags = (*flags, "--model", str(model), "--output", str(report))
        done = subprocess.run([*command, *flags], check=True, text=True, stdout=subprocess.PIPE)
        return json.loads(report.read_text()), done.stdout.replace(str(report), "report.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--note", required=True, help="machine and time of training, for the card")
    parser.add_argument("-n", type=int, default=500, help="scenes to generate")
    parser.add_argument("--guidance", type=float, help="the decoder's default scale")
    parser.add_argument("--prior-guidance", type=float, help="the prior's default scale")
    parser.add_argument("--ar-prior-guidance", type=float, help="that of the autoregressive prior")
    parser.add_argument("--sampler", choices=sorted(SAMPLERS), help="the default sampler")
    parser.add_argument("--eta", type=float, help="the default stochasticity of ddim and dpm++")
    parser.add_argument("--inpainting-candidates", type=int, help="as of `unclip inpaint`")
    options = parser.parse_args()

    pipe = Pipeline.from_pretrained(options.model, dtype="bf16")
    for stage, scale in (
        ("decoder", options.guidance),
        ("prior", options.prior_guidance),
        ("autoregressive_prior", options.ar_prior_guidance),
    ):
        if scale is not None:
            pipe.defaults[f"{stage}_guidance_scale"] = scale
    if options.inpainting_candidates is not None:
        pipe.defaults["inpainting_candidates"] = options.inpainting_candidates
    chosen = {name: getattr(options, name) for name in ("sampler", "eta")}
    for name, value in chosen.items():
        if value is not None:  # for all stages: what each said of itself counts no more
            own = {f"{stage}_{name}" for stage in STAGES}
            pipe.defaults = {k: v for k, v in pipe.defaults.items() if k not in own}
            pipe.defaults[name] = value
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "model"
        pipe.save_pretrained(trial)
        composition, table = evaluate("composition", trial, "-n", str(options.n))
        _, retrieval = evaluate("clip", trial)
    rows = [line.split("  ") for line in table.splitlines()[1:] if "  " in line]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    target = bundled("model")
    pipe.save_pretrained(target)
    parts = {
        "CLIP": [pipe.clip.text_encoder, pipe.clip.image_encoder],
        "prior": [pipe.prior and pipe.prior.network],
        "autoregressive prior": [pipe.autoregressive_prior and pipe.autoregressive_prior.network],
        "decoder": [pipe.decoder.network],
        "student": [pipe.decoder.student and pipe.decoder.student.network],
        "upsampler": [upsampler.network for upsampler in pipe.upsamplers],
    }
    counts = {
        name: sum(
            t.numel() for network in networks if network for t in network.state_dict().values()
        )
        for name, networks in parts.items()
        if any(networks)
    }
    card = CARD.format(
        size=pipe.sizes[-1],
        base=pipe.sizes[0],
        note=options.note,
        parameters=", ".join(f"{name} {count / 1e6:.1f} M" for name, count in counts.items()),
        date=date.today().isoformat(),
        n=options.n,
        composition="\n".join(f"| {' | '.join(row)} |" for row in cells if len(row) == 3),
        retrieval=retrieval.strip(),
    )
    write_text(target / "README.md", card)
    with contextlib.suppress(KeyError):
        print(json.dumps(composition["generated"], indent=2))
    print(card)


if __name__ == "__main__":
    main()
