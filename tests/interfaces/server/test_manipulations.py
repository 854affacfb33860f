"""/v1/unclip/…: what OpenAI's API has no words for."""

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.interfaces.server.conftest import DECODED, Served, picture, png
from tests.interfaces.server.test_refusals import check
from unclip.interfaces.server.fields import Generation, schema_of
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings, known

FEW = Settings(**DECODED)
TEXTS = {name: str(steps) for name, steps in DECODED.items()}


def images(answer: Any) -> list[Any]:
    assert answer.status_code == 200, answer.text
    data = [base64.b64decode(one["b64_json"]) for one in answer.json()["data"]]
    return [np.asarray(Image.open(BytesIO(one))) for one in data]


def equal(made: list[Any], wanted: list[Any]) -> None:
    for one, other in zip(made, wanted, strict=True):
        assert (one == np.asarray(other)).all()


def test_blend(served: Served, pipe: Pipeline) -> None:
    files = [("image[]", png(picture(24, seed))) for seed in (1, 2)]
    sent = {**TEXTS, "frames": "3", "seed": "4"}
    made = images(served.post("/v1/unclip/blend", files=files, data=sent))
    frames = pipe.blend([picture(24, 1), picture(24, 2)], 3, seed=4, settings=FEW).images
    equal(made, frames)
    check(served.post("/v1/unclip/blend", files=files[:1], data=sent), 400, "image")


def test_blend_by_weights_and_with_the_first_ones_noise(served: Served, pipe: Pipeline) -> None:
    pictures = [picture(24, seed) for seed in (1, 2)]
    sent: dict[str, Any] = {"files": [("image[]", png(one)) for one in pictures]}
    weighted = {**TEXTS, "weights": "[1, 3]", "seed": "4"}
    made = images(served.post("/v1/unclip/blend", **sent, data=weighted))
    equal(made, pipe.blend(pictures, weights=[1, 3], seed=4, settings=FEW).images)
    fixed = {**TEXTS, "frames": "2", "seed": "4", "invert": "true", "invert_steps": "2"}
    made = images(served.post("/v1/unclip/blend", **sent, data={**fixed, "noise": "fixed"}))
    latents = pipe.invert(pictures, 2)
    equal(made, pipe.blend(latents, 2, noise="fixed", seed=4, settings=FEW).images)
    for wrong, name in (
        ({"weights": "[1, 2, 3]"}, "weights"), ({"weights": "[0, 0]"}, "weights"),
        ({"weights": "[1, 2]", "frames": "2"}, "frames"), ({"noise": "fixed"}, "noise"),
    ):  # fmt: skip
        check(served.post("/v1/unclip/blend", **sent, data={**TEXTS, **wrong}), 400, name)


def test_edit_inverts_first_and_latents_say_the_same(served: Served, pipe: Pipeline) -> None:
    sent = {**TEXTS, "prompt": "a star", "theta": "[0, 0.4]", "seed": "4", "invert_steps": "2"}
    made = images(served.post("/v1/unclip/edit", files={"image": png(picture())}, data=sent))
    latents = pipe.invert(picture(), 2)
    wanted = pipe.edit(latents, "a star", theta=[0, 0.4], seed=4, settings=FEW).images
    equal(made, wanted)
    found = served.post(
        "/v1/unclip/invert", files={"image": png(picture())}, data={"invert_steps": "2"}
    ).json()["data"][0]
    assert np.allclose(found["z_i"], latents.z_i[0].numpy())
    file = base64.b64decode(found["latents"])
    again = served.post("/v1/unclip/edit", files={"image": ("l.safetensors", file)}, data=sent)
    equal(images(again), wanted)
    guided = pipe.edit(
        latents, "a star", theta=[0, 0.4], seed=4, settings=FEW, decoder_guidance_scale=3.0
    )
    sent_too = {**sent, "decoder_guidance_scale": "3"}
    again = served.post("/v1/unclip/edit", files={"image": ("l.safetensors", file)}, data=sent_too)
    equal(images(again), guided.images)
    damaged = {"image": ("l.safetensors", file[:-9])}
    check(served.post("/v1/unclip/edit", files=damaged, data=sent), 400, "image")
    check(served.post("/v1/unclip/edit", files=damaged, data={**sent, "theta": "2"}), 400, "theta")


def test_upscale(served: Served, pipe: Pipeline) -> None:
    few = {"super_res_num_inference_steps": "1"}
    made = images(
        served.post(
            "/v1/unclip/upscale", files={"image": png(picture(16))}, data={**few, "seed": "2"}
        )
    )
    wanted = pipe.upscale(picture(16), seed=2, super_res_num_inference_steps=1).images
    equal(made, wanted)
    small = {"files": {"image": png(picture(16))}, "data": {"size": "8"}}
    check(served.post("/v1/unclip/upscale", **small), 400, "size")


def test_embed_and_decode(served: Served, pipe: Pipeline) -> None:
    of_texts = served.post("/v1/unclip/embed", json={"input": ["a star", "a ring"]}).json()["data"]
    assert np.allclose(
        [one["embedding"] for one in of_texts], pipe.embed_texts(["a star", "a ring"]).numpy()
    )
    of_images = served.post("/v1/unclip/embed", files={"image": png(picture())}).json()["data"]
    z_i = of_images[0]["embedding"]
    assert np.allclose(z_i, pipe.embed_images(picture())[0].numpy())
    made = served.post("/v1/unclip/decode", json={"embedding": z_i, "n": 2, "seed": 3, **DECODED})
    equal(images(made), pipe.vary(picture(), 2, seed=3, settings=FEW).images)
    check(served.post("/v1/unclip/embed", json={}), 400, "input")
    check(served.post("/v1/unclip/decode", json={"embedding": [1.0, 2.0]}), 400, "embedding")
    check(served.post("/v1/unclip/decode", json={"embedding": "x"}), 400, "embedding")


def test_hidden_states_are_those_of_a_texts_tokens(served: Served, pipe: Pipeline) -> None:
    texts = ["a star", "a ring at night"]
    answer = served.post("/v1/unclip/embed", json={"input": texts, "hidden_states": True}).json()
    text = pipe.clip.text(texts)
    for one, hidden, mask in zip(answer["data"], text.hidden, text.mask, strict=True):
        assert np.allclose(one["hidden_states"], hidden[mask.bool()].numpy(), atol=1e-6)
    for body in ({"input": ["a"] * 17, "hidden_states": True}, {"hidden_states": True}):
        name = "hidden_states" if "input" in body else "input"
        check(served.post("/v1/unclip/embed", json=body), 400, name)
    sent = {"files": {"image": png(picture())}, "data": {"hidden_states": "true"}}
    check(served.post("/v1/unclip/embed", **sent), 400, "hidden_states")


def test_a_full_disk_is_a_503_and_no_fault(
    served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Latents are a file for a moment; nothing else that is served is."""
    asked = {"files": {"image": png(picture())}, "data": {"invert_steps": "1"}}
    file = base64.b64decode(served.post("/v1/unclip/invert", **asked).json()["data"][0]["latents"])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("unclip.outputs.latents.write_safetensors", _refusing)
        check(served.post("/v1/unclip/invert", **asked), 503, says="room")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        again = {"image": ("l.safetensors", file)}
        check(served.post("/v1/unclip/edit", files=again, data={"prompt": "a"}), 503, says="room")
    assert served.post("/v1/unclip/invert", **asked).status_code == 200


def _refusing(*_: Any, **__: Any) -> None:
    raise ValueError("cannot write: No space left on device")


def test_probe(served: Served, pipe: Pipeline) -> None:
    basis = pipe.embed_texts(["a star", "a ring", "a heart"])
    sent = {**TEXTS, "embeddings": json.dumps(basis.tolist()), "components": "[1, 2]", "seed": "3"}
    answer = served.post("/v1/unclip/probe", files={"image": png(picture())}, data=sent)
    assert len(images(answer)) == 2
    for wrong, name in (("[[1, 2], [3]]", "embeddings"), ("[[1, 2]]", "embeddings")):
        bad = {**sent, "embeddings": wrong}
        check(served.post("/v1/unclip/probe", files={"image": png(picture())}, data=bad), 400, name)


def test_the_schema_is_made_of_the_knobs(served: Served) -> None:
    described = served.http.get("/openapi.json").json()
    body = described["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]
    properties = body["application/json"]["schema"]["properties"]
    assert set(known().__dataclass_fields__) - {"resamples", "inpainting_candidates"} <= set(
        properties
    )
    assert properties["sampler"]["description"].startswith("Sampler of all stages")
    assert schema_of(Generation)["required"] == ["prompt"]
    page = served.http.get("/docs").text
    assert "POST /v1/images/edits" in page
    assert "<script" not in page
    assert "http" not in page.replace("/openapi.json", "")


@pytest.mark.parametrize("path", ["blend", "edit", "invert", "upscale", "decode", "probe"])
def test_what_is_missing_is_named(served: Served, path: str) -> None:
    missing = "embedding" if path == "decode" else "image"
    error = check(served.post(f"/v1/unclip/{path}", json={}), 400, missing)
    assert error["code"] == "missing_parameter"
