"""OpenAI's endpoints, asked by its own client."""

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.interfaces.server.conftest import (
    DECODED,
    FEW,
    Held,
    Served,
    holed,
    picture,
    png,
    serving,
)
from unclip.interfaces.cli.reproduction import command_for
from unclip.interfaces.server.openai import moments
from unclip.outputs.images import read_info
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings

SETTINGS = Settings(**FEW)


def opened(b64_json: str | None) -> Image.Image:
    assert b64_json is not None
    return Image.open(BytesIO(base64.b64decode(b64_json)))


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and bool((np.asarray(one) == np.asarray(other)).all())


def test_generations_are_the_pipelines_images_bit_for_bit(
    served: Served, pipe: Pipeline, tmp_path: Path
) -> None:
    made = served.openai.images.generate(
        prompt="a red circle", n=2, size="32x32", extra_body={"seed": 7, **FEW}
    )
    assert made.data is not None
    assert made.size == "32x32"
    alone = pipe("a red circle", 2, seed=7, settings=SETTINGS).images
    for one, other in zip(made.data, alone, strict=True):
        assert same(opened(one.b64_json), other)
    assert made.model_extra is not None
    assert made.model_extra["unclip"]["seeds"] == [7, 8]
    file = tmp_path / "image.png"
    file.write_bytes(base64.b64decode(made.data[1].b64_json or ""))
    info = read_info(file)
    assert (info["prompt"], info["seed"], info["model"]) == ("a red circle", 8, None)
    assert command_for(info).startswith("unclip generate 'a red circle' --seed 8")


def test_notes_logs_and_headers_bear_the_requests_id(served: Served, tmp_path: Path) -> None:
    raw = served.openai.images.with_raw_response.generate(prompt="a star", extra_body=FEW)
    [image] = raw.parse().data or []
    file = tmp_path / "image.png"
    file.write_bytes(base64.b64decode(image.b64_json or ""))
    assert read_info(file)["request"] == raw.headers["x-request-id"]


def test_a_seed_that_is_left_out_is_drawn_and_told(served: Served) -> None:
    made = [served.openai.images.generate(prompt="", extra_body=FEW) for _ in range(2)]
    seeds = [(one.model_extra or {})["unclip"]["seeds"][0] for one in made]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_formats_and_addresses(served: Served, form: Any) -> None:
    made = served.openai.images.generate(
        prompt="a star", output_format=form, output_compression=80, response_format="url",
        size="16x16", extra_body=FEW,
    )  # fmt: skip
    [image] = made.data or []
    got = served.http.get(image.url or "")
    assert got.headers["content-type"] == f"image/{form}"
    assert Image.open(BytesIO(got.content)).size == (16, 16)
    assert served.http.get("/v1/images/files/another.png").status_code == 404


def test_a_stream_shows_real_images_on_the_way(served: Served, pipe: Pipeline) -> None:
    steps = {**FEW, "decoder_num_inference_steps": 12}
    stream = served.openai.images.generate(
        prompt="a red circle", stream=True, partial_images=3, extra_body={"seed": 3, **steps}
    )
    events = list(stream)
    assert [event.type for event in events] == [
        *["image_generation.partial_image"] * 3, "image_generation.completed",
    ]  # fmt: skip
    assert [getattr(event, "partial_image_index", None) for event in events] == [0, 1, 2, None]
    images = [opened(event.b64_json) for event in events]
    alone = pipe("a red circle", seed=3, settings=Settings(**steps)).images[0]
    assert same(images[-1], alone)
    assert len({image.tobytes() for image in images}) == 4
    assert {image.size for image in images} == {(32, 32)}


def test_each_image_on_the_way_is_nearer_and_the_first_comes_before_half_of_the_steps() -> None:
    """By the bundled model, whose decoder knows what it expects; at its size, without upsampler."""
    pipe = Pipeline.from_pretrained(device="cpu", dtype="fp32")
    size = pipe.decoder.size
    body = {
        "prompt": "a red star", "seed": 3, "stream": True, "partial_images": 3,
        "prior_num_inference_steps": 2, "decoder_num_inference_steps": 12, "size": f"{size}x{size}",
    }  # fmt: skip
    with serving(pipe) as one:
        engine = Held(one.desk)
        one.desk.scheduler.engine = engine
        with one.http.stream("POST", "/v1/images/generations", json=body) as answer:
            lines = answer.iter_lines()
            engine.go(7)  # of 14 steps
            first = next(line for line in lines if line.startswith("data: "))
            assert engine.ended == []
            engine.go()
            events = [first, *(line for line in lines if line.startswith("data: "))]
    images = [np.asarray(opened(json.loads(one[6:])["b64_json"]), float) for one in events]
    distances = [float(np.square(one - images[-1]).mean()) for one in images]
    assert len(distances) == 4
    assert distances == sorted(distances, reverse=True)


def test_images_on_the_way_come_in_the_first_half() -> None:
    assert moments(25, 3) == [3, 7, 11]
    assert moments(25, 1) == [5]
    assert moments(1, 3) == [0]
    assert moments(25, 0) == []


def test_variations_are_the_pipelines(served: Served, pipe: Pipeline) -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):  # OpenAI's own endpoint is retired
        made = served.openai.images.create_variation(
            image=png(picture()), n=2, extra_body={"seed": 4, **DECODED}
        )
    alone = pipe.vary(picture(), 2, seed=4, settings=SETTINGS).images
    for one, other in zip(made.data or [], alone, strict=True):
        assert same(opened(one.b64_json), other)


@pytest.mark.parametrize("own", [True, False])
def test_edits_repaint_what_is_transparent(served: Served, pipe: Pipeline, own: bool) -> None:
    image = picture()
    mask = Image.new("L", image.size)
    mask.paste(255, (6, 6, 16, 16))
    sent: dict[str, Any] = {"image": png(holed(image))} if own else {
        "image": png(image), "mask": png(holed(image)),
    }  # fmt: skip
    made = served.openai.images.edit(prompt="a star", extra_body={"seed": 5, **FEW}, **sent)
    [one] = made.data or []
    if not own:  # where the image's own pixels are gone, what is below them is white
        alone = pipe.inpaint(image, "a star", mask, seed=5, settings=SETTINGS).images[0]
        assert same(opened(one.b64_json), alone)
    kept = np.asarray(mask) == 0
    assert (np.asarray(opened(one.b64_json))[kept] == np.asarray(image)[kept]).all()


def test_boxes_are_repainted_too(served: Served, pipe: Pipeline) -> None:
    body = {"seed": 5, "boxes": [[6, 6, 16, 16], [0, 0, 3, 3]], **FEW}
    made = served.openai.images.edit(
        image=png(picture()),
        prompt="a star",
        extra_body={**body, "boxes": json.dumps(body["boxes"])},
    )
    [one] = made.data or []
    boxes = [(6, 6, 16, 16), (0, 0, 3, 3)]
    alone = pipe.inpaint(picture(), "a star", boxes=boxes, seed=5, settings=SETTINGS).images[0]
    assert same(opened(one.b64_json), alone)


def test_an_edit_keeps_what_it_does_not_repaint_though_it_is_marked(served: Served) -> None:
    image = picture(132)
    made = served.openai.images.edit(
        image=png(image), prompt="a star",
        extra_body={"seed": 5, "boxes": "[[10, 10, 120, 100]]", **FEW, "resamples": 1},
    )  # fmt: skip
    [one] = made.data or []
    kept = np.ones((132, 132), bool)
    kept[10:100, 10:120] = False
    assert (np.asarray(opened(one.b64_json))[kept] == np.asarray(image)[kept]).all()


def test_an_edit_streams_its_own_events(served: Served) -> None:
    stream = served.openai.images.edit(
        image=png(holed(picture())), prompt="a star", stream=True, partial_images=1,
        extra_body={"seed": 5, **FEW, "resamples": 1},
    )  # fmt: skip
    assert [event.type for event in stream] == [
        "image_edit.partial_image", "image_edit.completed"
    ]  # fmt: skip


def test_models(served: Served) -> None:
    assert [model.id for model in served.openai.models.list()] == ["tiny"]
    assert served.openai.models.retrieve("dall-e-2").id == "tiny"


def test_captions_of_words_that_the_model_does_not_know_are_told(served: Served) -> None:
    answer = served.post(
        "/v1/images/generations", json={"prompt": "a star " * 40, "size": "16x16", **FEW}
    )
    assert "tokens" in json.dumps(answer.json()["unclip"]["notices"])
