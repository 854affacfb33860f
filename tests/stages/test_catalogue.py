"""The table of stages: a row is enough for `unclip train`, and a prior's for requests."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unclip.batch import Batch
from unclip.config import Checked, Width
from unclip.files import read_json
from unclip.interfaces.cli import main
from unclip.stages.catalogue import STAGES, Row, prior_kinds, priors
from unclip.stages.prior import Prior
from unclip.stages.recipe import Data, Optimiser, Recipe, Training
from unclip.stages.spec import BuildContext, StageSpec
from unclip.storage.folder import ModelFolder, bundled

WORLD = ("--data", "emoji:shapes", "--data.size", "32", "--data.workers", "0")


@dataclass(frozen=True)
class ToySettings(Checked):
    """What is chosen about the toy."""

    width: Width = 3  # of what it predicts


class ToyStage:
    """Predicts the mean colour of images, from nothing."""

    def __init__(self, settings: ToySettings) -> None:
        self.network: nn.Module = nn.Linear(1, settings.width)

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        images = batch["images"]
        answers = self.network(torch.ones(len(images), 1, device=images.device))
        return {"loss": (answers - images.mean(dim=(2, 3))).square().mean()}

    def preview(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        return None

    def save(self, folder: ModelFolder) -> None:
        folder.save("toy", ("tests", "Toy"), {"config.json": {}}, self.network.state_dict())


def _build(settings: ToySettings, context: BuildContext) -> ToyStage:
    return ToyStage(settings)


SPEC = StageSpec(
    "toy",
    Recipe(
        ToySettings(),
        Data(),
        Training(batch_size=4, steps=2, preview_every=0, precision="fp32"),
        Optimiser(learning_rate=0.1),
    ),
    {"toy": ("Toy",)},
    _build,
)


def test_a_row_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train = ["train", "toy", "--model", "m", *WORLD]
    assert main(train) == 2
    monkeypatch.setitem(STAGES.rows, "toy", Row(f"{__name__}:SPEC"))
    assert main(["train", "--help"]) == 0
    assert ", toy," in capsys.readouterr().out
    assert main(["train", "toy", "--help"]) == 0
    assert "--network.width" in capsys.readouterr().out
    assert main([*train, "--dry-run"]) == 0
    assert "trained parameters   6\n" in capsys.readouterr().out
    Path("toy.toml").write_text('stage = "toy"\n[network]\nwidth = 1\n')
    assert main([*train, "--recipe", "toy.toml"]) == 0
    folder = ModelFolder(Path("m"))
    assert folder.index()["toy"] == ["tests", "Toy"]
    assert main(["train", "toy", "--model", "m", "--resume", "--training.steps", "4"]) == 0
    assert "from step 2 to 4" in capsys.readouterr().out


def test_every_row_names_a_spec_of_that_name() -> None:
    assert [spec.name for spec in STAGES.values()] == list(STAGES)


def test_what_is_opened_is_what_stages_say() -> None:
    from unclip.pipeline.loading import CLASSES, NEEDED

    written = {name for spec in STAGES.values() for name in (*spec.components, *spec.optional)}
    assert set(CLASSES) == written
    assert all(set(needed) <= written for needed in NEEDED.values())
    index = read_json(bundled("model") / "model_index.json")
    there = {name: entry[1] for name, entry in index.items() if isinstance(entry, list)}
    assert all(kind in CLASSES[name] for name, kind in there.items() if kind)


def test_priors_are_what_requests_call_them() -> None:
    assert prior_kinds() == ("diffusion", "autoregressive")
    for kind, stage in priors().items():
        assert kind == stage.KIND
        assert any(spec.components == stage.COMPONENTS for spec in STAGES.values())


def test_what_has_all_of_the_protocol_is_a_prior(tiny_priors: Path) -> None:
    from unclip import Pipeline

    pipe = Pipeline.from_pretrained(tiny_priors, dtype="fp32", device="cpu")
    assert all(isinstance(prior, Prior) for prior in pipe.priors.values())
    assert not isinstance(pipe.decoder, Prior)
    assert read_json(tiny_priors / "model_index.json")["prior"]
    again = Pipeline(pipe.clip, list(pipe.priors.values()), pipe.decoder)
    assert again.priors == pipe.priors
    other = Pipeline(pipe.clip, pipe.prior, pipe.decoder,
                     autoregressive_prior=pipe.autoregressive_prior)  # fmt: skip
    assert other.priors == pipe.priors
    with pytest.raises(ValueError, match="a prior must be a stage that draws embeddings"):
        Pipeline(pipe.clip, pipe.decoder, pipe.decoder)  # type: ignore[arg-type]


def test_nothing_heavy_is_imported_for_the_names() -> None:
    from tests.interfaces.test_lazy_import import HEAVY, imported_by

    assert not imported_by("from unclip.stages.catalogue import prior_kinds; prior_kinds()") & HEAVY
