"""Runs that start from another model's weights (`training.init`)."""

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.tiny import newest_checkpoint, scenes, tiny_recipe
from unclip.checks import Notice
from unclip.files import read_safetensors
from unclip.networks.clip_config import CLIPConfig
from unclip.stages.autoregressive_prior import AutoregressivePriorStage
from unclip.stages.catalogue import STAGES
from unclip.stages.clip import ClipSettings, ClipStage
from unclip.stages.conditioning import FrozenCLIP
from unclip.stages.decoder import STUDENT, DecoderStage
from unclip.stages.decoder.student import STUDENT_NOTE
from unclip.stages.diffusion_prior import PriorStage
from unclip.stages.encoders import CLIP
from unclip.stages.recipe import open_data
from unclip.stages.spec import BuildContext, load_recipe
from unclip.stages.upsampler import FIRST, SECOND, UpsamplerStage
from unclip.storage.folder import ModelFolder, bundled
from unclip.training.job import Folders, build_job
from unclip.training.parallel import Alone
from unclip.training.plan import plan
from unclip.training.start import start

STILL = {"learning_rate": 1e-12}  # weights stay where they began


@pytest.fixture(scope="module")
def origin(tiny_priors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose decoder makes 32 px, the least that the built-in world draws."""
    path = tmp_path_factory.mktemp("origin")
    shutil.copytree(tiny_priors, path / "model")
    recipe = tiny_recipe("decoder", training={"steps": 1})
    where = Folders(path / "model", path / "run", overwrite=True)
    assert start(STAGES["decoder"], recipe, where, "cpu") == 0
    return path / "model"


def train(stage: str, model: Path, run: Path, init: Path, size: int = 32, **network: Any) -> None:
    recipe = tiny_recipe(
        stage,
        network=network,
        training={"steps": 1, "init": str(init)},
        optimiser=STILL,
        data={"size": size},
    )
    assert start(STAGES[stage], recipe, Folders(model, run), "cpu") == 0


@pytest.mark.parametrize("stage", ["clip", "prior", "ar-prior", "decoder", "upsampler"])
def test_weights_are_those_of_the_other_model(stage: str, origin: Path, tmp_path: Path) -> None:
    train(stage, tmp_path / "model", tmp_path / "run", origin)
    name = {"clip": "image_encoder", "upsampler": "super_res_first",
            "ar-prior": "autoregressive_prior"}.get(stage, stage)  # fmt: skip
    before, after = (next((p / name).glob("*.safetensors")) for p in (origin, tmp_path / "model"))
    old, new = read_safetensors(before), read_safetensors(after)
    assert old.keys() == new.keys()
    for key in old:
        torch.testing.assert_close(new[key].float(), old[key].float(), atol=1e-6, rtol=0)


def test_clip_comes_along_unless_the_model_has_its_own(origin: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    train("decoder", model, tmp_path / "run", origin)
    there = FrozenCLIP.load(ModelFolder(origin))
    mine = FrozenCLIP.load(ModelFolder(model))
    assert torch.equal(mine.text(["a red circle"]).z_t, there.text(["a red circle"]).z_t)
    assert DecoderStage.load(ModelFolder(model), mine).size == 32


@pytest.mark.parametrize("stage", ["prior", "decoder", "upsampler"])
def test_the_loss_is_the_recipes_and_the_sizes_are_the_other_models(
    stage: str, origin: Path, tmp_path: Path
) -> None:
    changed: dict[str, Any] = {"loss": {"weighting": "min_snr"}}
    changed |= {"num_layers": 3} if stage == "prior" else {"widths": [32, 64]}
    recipe = tiny_recipe(stage, network=changed, training={"init": str(origin)})
    folders = Folders(tmp_path / "model", tmp_path / "run")
    built: Any = build_job(STAGES[stage], recipe, folders, Alone(torch.device("cpu"))).stage
    assert built.process.weights == built.settings.loss == recipe.network.loss
    here = built.settings.num_layers if stage == "prior" else built.settings.widths
    assert here == (1 if stage == "prior" else (16, 32))


@pytest.mark.parametrize("stage", ["prior", "ar-prior", "decoder", "upsampler"])
def test_the_runs_recipe_says_the_sizes_that_are_trained(
    stage: str, origin: Path, tmp_path: Path
) -> None:
    model, run = tmp_path / "model", tmp_path / "run"
    wrong: dict[str, Any] = {"num_layers": 3} if "prior" in stage else {"widths": [32, 64]}
    train(stage, model, run, origin, **wrong)
    told = load_recipe(STAGES[stage], run / "recipe.toml").network
    assert (told.num_layers if "prior" in stage else told.widths) == (
        1 if "prior" in stage else (16, 32)
    )
    again = load_recipe(STAGES[stage], run / "recipe.toml")
    longer = replace(again, training=replace(again.training, steps=2))
    assert start(STAGES[stage], longer, Folders(model, run, resume=True), "cpu") == 0


@pytest.fixture(scope="module")
def own_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that has nothing but a CLIP, of other sizes than the origin's."""
    path = tmp_path_factory.mktemp("own") / "model"
    sizes = CLIPConfig.preset("tiny", 530, 20)
    wider = replace(sizes.text, hidden_size=48, projection_dim=48, eos_token_id=529)
    torch.manual_seed(3)
    stage = ClipStage.build(ClipSettings("tiny", 530, 20), ["a red circle", "a blue star"])
    clip = CLIP(CLIPConfig(replace(wider, vocab_size=len(stage.tokenizer),
                                   eos_token_id=len(stage.tokenizer) - 1),
                           replace(sizes.vision, projection_dim=48))).initialise()  # fmt: skip
    ClipStage(clip, stage.tokenizer).save(ModelFolder(path))
    return path


@pytest.mark.parametrize("stage", ["prior", "ar-prior", "decoder"])
def test_a_model_with_its_own_clip_takes_what_fits(
    stage: str, origin: Path, own_clip: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(own_clip, tmp_path / "model"))
    recipe = tiny_recipe(stage, training={"init": str(origin)})
    folders = Folders(model, tmp_path / "run")
    with pytest.warns(Notice, match="starts from .*: all but .* start anew: [a-z_]+"):
        built: Any = build_job(STAGES[stage], recipe, folders, Alone(torch.device("cpu"))).stage
    theirs: Any = {
        "prior": PriorStage, "ar-prior": AutoregressivePriorStage, "decoder": DecoderStage
    }[stage].load(ModelFolder(origin), FrozenCLIP.load(ModelFolder(origin)))  # fmt: skip
    assert built.clip.width == 48 != theirs.clip.width
    old, new = theirs.network.state_dict(), built.network.state_dict()
    measured = ("clip_mean", "clip_std", "codec.")
    taken = [k for k in new if new[k].shape == old[k].shape and not k.startswith(measured)]
    assert len(taken) > len(new) / 2
    assert all(torch.equal(new[key], old[key]) for key in taken)
    with torch.no_grad():
        assert built.loss(scenes(4), torch.Generator().manual_seed(0))["loss"].isfinite()


def test_a_prior_measures_the_embeddings_of_the_models_own_clip(
    origin: Path, tmp_path: Path
) -> None:
    """Also where everything fits: another CLIP's mean would be another model's."""
    model = tmp_path / "model"
    clip = ClipStage.load(ModelFolder(origin))
    with torch.no_grad():
        clip.network.visual_projection.weight.neg_()
        clip.network.text_projection.weight.neg_()
    clip.save(ModelFolder(model))
    recipe = tiny_recipe("prior", training={"steps": 1, "init": str(origin)})
    where = Folders(model, tmp_path / "run")
    with pytest.warns(Notice, match="this model's CLIP: all [0-9]+ tensors are taken"):
        assert start(STAGES["prior"], recipe, where, "cpu") == 0
    mine, theirs = (
        PriorStage.load(ModelFolder(path), FrozenCLIP.load(ModelFolder(path))).network
        for path in (model, origin)
    )
    assert torch.cosine_similarity(mine.clip_mean, theirs.clip_mean) < 0
    # Resumed, it is the folder's own prior: nothing is measured or said any more.
    longer = replace(recipe, training=replace(recipe.training, steps=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        assert start(STAGES["prior"], longer, replace(where, resume=True), "cpu") == 0


def test_bundled_is_a_models_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tiny_recipe("upsampler", training={"init": "bundled"}, data={"size": 128})
    folders = Folders(Path("model"), Path("run"))
    built: Any = build_job(STAGES["upsampler"], recipe, folders, Alone(torch.device("cpu"))).stage
    theirs = UpsamplerStage.load(ModelFolder(bundled("model")), FIRST, torch.float32)
    assert built.settings.widths == theirs.settings.widths
    assert all(map(torch.equal, built.network.parameters(), theirs.network.parameters()))
    (tmp_path / "bundled").mkdir()  # a folder of that name is meant first
    with pytest.raises(ValueError, match="bundled is not a model folder"):
        build_job(STAGES["upsampler"], recipe, folders, Alone(torch.device("cpu")))


def test_another_size_is_refused(origin: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"makes images of 32 pixels a side, but data\.size is 64"):
        train("decoder", tmp_path / "model", tmp_path / "run", origin, size=64)


def test_a_second_upsampler_starts_from_the_first(origin: Path, tmp_path: Path) -> None:
    model, predicts = tmp_path / "model", {"prediction_type": "sample"}
    with pytest.raises(ValueError, match="the first upsampler predicts 'sample'; set network"):
        train(
            "upsampler-1024", model, tmp_path / "run", origin, size=128, prediction_type="epsilon"
        )
    train("upsampler-1024", model, tmp_path / "run", origin, size=128, **predicts)
    first = UpsamplerStage.load(ModelFolder(origin), FIRST)
    second = UpsamplerStage.load(ModelFolder(model), SECOND)
    assert (first.size, second.size) == (32, 128)
    assert second.process.config.beta_schedule == "linear"
    old, new = first.network.state_dict(), second.network.state_dict()
    for key in old:
        torch.testing.assert_close(new[key], old[key], atol=1e-6, rtol=0)
    # A model that has a second one gives that.
    with pytest.raises(ValueError, match=r"of 128 pixels a side, but data\.size is 256"):
        train("upsampler-1024", tmp_path / "other", tmp_path / "run2", model, size=256, **predicts)


def test_mask_channels_are_added_to_a_decoder_and_taken_away(origin: Path, tmp_path: Path) -> None:
    model, further = tmp_path / "model", tmp_path / "further"
    train("decoder", model, tmp_path / "run", origin, inpainting=True)
    old, new = (
        DecoderStage.load(ModelFolder(path), FrozenCLIP.load(ModelFolder(path)))
        for path in (origin, model)
    )
    assert new.settings.inpainting
    before, after = (s.network.decoder.state_dict() for s in (old, new))
    for key in before:
        torch.testing.assert_close(after[key], before[key], atol=1e-6, rtol=0)
    assert new.network.masks is not None
    assert new.network.masks.conv.weight.abs().max() < 1e-6
    train("decoder", further, tmp_path / "run2", model, inpainting=True)
    train("decoder", tmp_path / "third", tmp_path / "run3", model)
    third = ModelFolder(tmp_path / "third")
    assert not third.has("decoder_masks")
    assert not DecoderStage.load(third, FrozenCLIP.load(third)).settings.inpainting


def test_a_student_starts_from_its_folders_decoder_and_nothing_else(
    origin: Path, tmp_path: Path
) -> None:
    recipe, where = tiny_recipe("distilled-decoder"), Folders(tmp_path / "none", tmp_path / "r")
    with pytest.raises(ValueError, match="no decoder to distil; train one first"):
        start(STAGES["distilled-decoder"], recipe, where, "cpu")
    with pytest.raises(ValueError, match="cannot start from another model"):
        train("distilled-decoder", tmp_path / "none", tmp_path / "r", origin)
    model = Path(shutil.copytree(origin, tmp_path / "model"))
    recipe = tiny_recipe("distilled-decoder", training={"steps": 1}, optimiser=STILL)
    assert start(STAGES["distilled-decoder"], recipe, Folders(model, tmp_path / "run"), "cpu") == 0
    old, new = (
        read_safetensors(next((model / name).glob("*.safetensors")))
        for name in ("decoder", "decoder_distilled")
    )
    assert new.keys() - old.keys() == {"time_embedding.cond_proj.weight"}
    for key in old:
        torch.testing.assert_close(new[key], old[key], atol=1e-6, rtol=0)
    for number, inpainting in enumerate((False, True)):  # further training is another decoder
        further = tmp_path / f"further{number}"
        train("decoder", further, tmp_path / f"run{number}", model, inpainting=inpainting)
        stage = DecoderStage.load(ModelFolder(further), FrozenCLIP.load(ModelFolder(further)))
        assert stage.student is None
    decoder = tiny_recipe("decoder", training={"steps": 2})
    again = Folders(model, tmp_path / "again", overwrite=True)
    assert start(STAGES["decoder"], decoder, again, "cpu") == 0
    assert not ModelFolder(model).has("decoder_distilled")  # it is not that decoder's


def test_a_student_stays_with_the_decoder_that_it_learned_from(
    origin: Path, tmp_path: Path
) -> None:
    model, runs = Path(shutil.copytree(origin, tmp_path / "model")), tmp_path / "runs"
    folder = ModelFolder(model)

    def run(stage: str, name: str, steps: int, *how: str) -> int:
        recipe = tiny_recipe(stage, training={"steps": steps})
        where = Folders(model, runs / name, "resume" in how, "overwrite" in how)
        return start(STAGES[stage], recipe, where, "cpu")

    run("decoder", "decoder", 2, "overwrite")
    run("distilled-decoder", "student", 2)
    run("decoder", "decoder", 2, "resume")  # complete: the same decoder is published again
    assert folder.has("decoder_distilled")
    student = STAGES["distilled-decoder"].build(
        tiny_recipe("distilled-decoder").network,
        BuildContext(
            folder, open_data(tiny_recipe("decoder").data), tiny_recipe("decoder").data,
            torch.device("cpu"), lambda n: [], lambda: iter([]), Alone(torch.device("cpu")),
        ),
    )  # fmt: skip
    run("decoder", "decoder", 4, "resume")
    assert not folder.has("decoder_distilled")
    with pytest.raises(ValueError, match="has changed while its student was trained"):
        student.save(folder)
    with pytest.raises(ValueError, match="by another teacher"):
        run("distilled-decoder", "student", 4, "resume")
    assert not folder.has("decoder_distilled")


def test_a_resumed_run_does_not_need_the_other_model_any_more(origin: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(origin, tmp_path / "other"))
    recipes = [
        tiny_recipe("prior", training={"steps": n, "init": str(other)}, optimiser={"decay": 0.0})
        for n in (2, 4)
    ]
    spec, where = STAGES["prior"], Folders(tmp_path / "model", tmp_path / "run")
    expected = Folders(tmp_path / "model2", tmp_path / "run2")
    assert start(spec, recipes[1], expected, "cpu") == 0
    assert start(spec, recipes[0], where, "cpu") == 0
    shutil.rmtree(other)
    assert start(spec, recipes[1], replace(where, resume=True), "cpu") == 0
    one, two = (
        read_safetensors(place.run / "checkpoints" / "step-00000004.safetensors")
        for place in (where, expected)
    )
    assert all(torch.equal(one[key], two[key]) for key in two)


def test_a_dry_run_writes_nothing(origin: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("prior", training={"init": str(origin)})
    plan(STAGES["prior"], recipe, Folders(tmp_path / "model", tmp_path / "run"), "cpu")
    assert list(tmp_path.iterdir()) == []


def test_clip_is_read_in_fp32(origin: Path, tmp_path: Path) -> None:
    """Whatever it is stored in: autocast decides what is computed in less."""
    FrozenCLIP.load(ModelFolder(origin), torch.bfloat16).save(ModelFolder(tmp_path / "model"))
    recipe = tiny_recipe("prior")
    where = Folders(tmp_path / "model", tmp_path / "run")
    stage = build_job(STAGES["prior"], recipe, where, Alone(torch.device("cpu"))).stage
    assert isinstance(stage, PriorStage)
    assert {p.dtype for p in stage.clip.text_encoder.parameters()} == {torch.float32}


def test_clip_gets_tokens_for_words_that_it_has_not_seen(
    origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["grinning", "squirrel", "sunglasses", "hamburger"]
    images = tmp_path / "images"
    images.mkdir()
    for number in range(8):
        Image.new("RGB", (32, 32), (30 * number, 0, 0)).save(images / f"{number}.png")
        (images / f"{number}.txt").write_text(f"a {words[number % 4]} {words[number // 4]} circle")
    data = {"source": str(images), "held_out": 0.0}
    folders = Folders(tmp_path / "model", tmp_path / "run")
    given = {"steps": 1, "init": str(origin)}
    recipe = tiny_recipe("clip", training=given, optimiser=STILL, data=data)
    with pytest.warns(Notice, match=r"was not trained with: it gets \d+ tokens for them"):
        assert start(STAGES["clip"], recipe, folders, "cpu") == 0
    old, new = (FrozenCLIP.load(ModelFolder(path)) for path in (origin, folders.model))
    assert new.text_sizes.vocab_size == len(new.tokenizer) > len(old.tokenizer)
    assert old.tokenizer("a squirrel").mask.sum() > 5
    assert new.tokenizer("a squirrel").mask.sum() == 4
    known = ["a red circle", "a blue star"]
    torch.testing.assert_close(old.text(known).z_t, new.text(known).z_t, atol=1e-5, rtol=0)
    # Resumed, from its own folder: nothing is added any more.
    longer = replace(recipe, training=replace(recipe.training, steps=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        assert start(STAGES["clip"], longer, replace(folders, resume=True), "cpu") == 0
    # A stage whose CLIP does not learn says what it has not seen.
    capsys.readouterr()
    prior = tiny_recipe("prior", training={**given, "steps": 1}, data=data)
    where = Folders(tmp_path / "other", tmp_path / "run2")
    assert start(STAGES["prior"], prior, where, "cpu") == 0
    said = capsys.readouterr().out
    assert "unknown: 8 of 8 captions have words that this model's CLIP was not trained with" in said
    assert "grinning" in said


def test_a_clip_without_image_encoder_cannot_be_trained(origin: Path, tmp_path: Path) -> None:
    clip = FrozenCLIP.load(ModelFolder(origin))
    clip.image_encoder = None
    clip.save(ModelFolder(tmp_path / "text"))
    with pytest.raises(ValueError, match="no image_encoder, so its CLIP cannot be trained"):
        ClipStage.load(ModelFolder(tmp_path / "text"))


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no model folder"):
        train("upsampler", tmp_path / "model", tmp_path / "run", tmp_path / "nothing")
    assert not (tmp_path / "model").exists()


def test_a_student_of_few_steps_goes_on_with_distribution_matching(
    origin: Path, tmp_path: Path
) -> None:
    """From weights, scales and steps of another model's; what is learned beside it is not kept."""
    model, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(origin, model)
    decoder = tiny_recipe("decoder", network={"prediction_type": "sample"}, training={"steps": 1})
    where = Folders(model, tmp_path / "run0", overwrite=True)
    assert start(STAGES["decoder"], decoder, where, "cpu") == 0
    shutil.copytree(model, tmp_path / "first")
    recipe = tiny_recipe(
        "few-step-decoder",
        network={"guidance_scales": [1.5, 4.0], "most_steps": 8},
        training={"steps": 1},
    )
    first = Folders(tmp_path / "first", tmp_path / "run1")
    assert start(STAGES["few-step-decoder"], recipe, first, "cpu") == 0
    matching = tiny_recipe(
        "few-step-decoder",
        network={"matching": 1.0},
        training={"steps": 2, "checkpoint_every": 1, "init": str(first.model)},
        optimiser=STILL,
    )
    assert start(STAGES["few-step-decoder"], matching, Folders(model, run), "cpu") == 0
    mine, theirs = (
        read_safetensors(path / STUDENT / "diffusion_pytorch_model.safetensors")
        for path in (model, first.model)
    )
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert (
        ModelFolder(model).index()[STUDENT_NOTE] == ModelFolder(first.model).index()[STUDENT_NOTE]
    )
    assert any(name.startswith("network.fake.") for name in newest_checkpoint(run))
    # The first run's model is not needed any more.
    shutil.rmtree(first.model)
    again = Folders(model, run, resume=True)
    longer = replace(matching, training=replace(matching.training, steps=3))
    assert start(STAGES["few-step-decoder"], longer, again, "cpu") == 0


def test_a_student_of_guidance_is_no_start(origin: Path, tmp_path: Path) -> None:
    shutil.copytree(origin, tmp_path / "model")
    recipe = tiny_recipe("distilled-decoder", training={"steps": 1})
    where = Folders(tmp_path / "model", tmp_path / "run1")
    assert start(STAGES["distilled-decoder"], recipe, where, "cpu") == 0
    with pytest.raises(ValueError, match=r"has learned guidance alone; leave training\.init out"):
        train("few-step-decoder", origin, tmp_path / "run", tmp_path / "model")
