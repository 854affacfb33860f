"""What is wrong is refused in OpenAI's envelope, with the field's name; the server lives on."""

import socket
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.interfaces.server.conftest import DECODED, FEW, Served, holed, picture, png, serving
from unclip.interfaces.server.bodies import Limits
from unclip.interfaces.server.keys import Keys, read_keys
from unclip.pipeline.pipeline import Pipeline

GENERATE, EDIT, VARY = (f"/v1/images/{what}" for what in ("generations", "edits", "variations"))
FORM = "multipart/form-data; boundary=x"
_FIELD = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n%s\r\n'


def check(answer: httpx2.Response, status: int, param: str | None = None, says: str = "") -> Any:
    """An envelope of four keys, in one sentence."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert says in error["message"]
    assert "\n" not in error["message"]
    assert answer.headers["x-request-id"].startswith("req_")
    return error


@pytest.fixture(scope="module", autouse=True)
def lives_on(served: Served) -> Iterator[None]:
    """After all of it, images are made."""
    yield
    assert served.post(GENERATE, json={"prompt": "a star", **FEW}).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("style", "vivid"), ("moderation", "low"), ("quality", "hd"), ("complexity", "low"),
        ("background", "transparent"), ("frame_count", 3), ("svg", {"model": "x"}),
        ("input_fidelity", "high"), ("output_format", "gif"), ("output_compression", 50),
        ("response_format", "file"), ("n", 0), ("n", 11), ("n", "two"), ("n", True),
        ("size", "31x31"), ("size", "32x16"), ("size", 32), ("seed", -1), ("seed", 1.5),
        ("prompt", 5), ("prompt", "a\u0000b"), ("stream", "yes"),
        pytest.param("prompt", "x" * 10_001, id="a long prompt"),
        pytest.param("prompt", "x" * 10_000_000, id="a prompt of ten megabytes"),
        ("partial_images", 4), ("partial_images", 2), ("steps", "slow"), ("sampler", "euler"),
        ("decoder_guidance_scale", "NaN"), ("decoder_num_inference_steps", 10**9), ("model", "x"),
        ("resamples", 2), ("", 1),
    ],
)  # fmt: skip
def test_each_field_wrong_in_turn(served: Served, field: str, value: Any) -> None:
    answer = served.post(GENERATE, json={"prompt": "a star", field: value})
    check(answer, 404 if field == "model" else 400, field)


def test_files_are_not_texts(served: Served) -> None:
    sent = {"prompt": "a star", "image": "iVBOR"}
    check(served.post(EDIT, json=sent), 400, "image", "as a file of a form")


def test_what_goes_not_together(served: Served) -> None:
    stream = {"prompt": "a star", "stream": True}
    check(served.post(GENERATE, json={**stream, "n": 2}), 400, "n")
    check(served.post(GENERATE, json={**stream, "response_format": "url"}), 400, "response_format")
    check(served.post(GENERATE, json={}), 400, "prompt", "missing")
    wrong = {"prompt": "a star", "guidance_kind": "distilled"}
    check(served.post(GENERATE, json=wrong), 400, None, "distilled")


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400), (b"[1]", "application/json", 400),
        (b"\xff\xfe", "application/json", 400), (b"[" * 100_000, "application/json", 400),
        (b"a=b", "application/x-www-form-urlencoded", 415), (b"", "text/plain", 415),
        (b"--y\r\n", FORM, 400),
        (b"nothing", "multipart/form-data", 400),
        (_FIELD % b"a star" + _FIELD.partition(b"%s")[0] + b"12", FORM, 400),
        (_FIELD % b"\xff\xfe" + b"--x--\r\n", FORM, 400),
    ],
)  # fmt: skip
def test_bodies_that_are_none(served: Served, content: bytes, kind: str, status: int) -> None:
    answer = served.http.post(GENERATE, content=content, headers={"Content-Type": kind})
    check(answer, status)


def test_addresses_and_methods(served: Served) -> None:
    check(served.http.get("/v1/nothing"), 404)
    check(served.http.get(GENERATE), 405)
    check(served.http.get("/v1/models/another"), 404, "model")


def _bomb() -> tuple[str, bytes]:
    """A PNG of 225 megapixels in some kilobytes."""
    return png(Image.new("1", (15_000, 15_000)))


def test_images_that_are_none_bombs_or_many(served: Served) -> None:
    check(served.post(VARY, json=DECODED), 400, "image", "missing")
    check(served.post(VARY, files={"image": ("a.png", b"no image")}), 400, "image", "not an image")
    check(served.post(VARY, files={"image": _bomb()}), 400, "image", "pixels")
    whole = png(picture())
    check(served.post(VARY, files={"image": ("a.png", whole[1][:200])}), 400, "image")
    check(served.post(VARY, files=[("image[]", whole)] * 2), 400, "image", "one file")
    check(served.post(VARY, files={"image": whole, "mask": whole}), 400, "mask")
    check(served.post(VARY, files={"image": whole}, data={"prompt": "x"}), 400, "prompt")
    check(served.post(VARY, json={"image": "text"}), 400, "image")


def test_masks(served: Served) -> None:
    image, said = png(picture()), {"prompt": "a star"}
    for mask in (picture(16), picture(24), picture(24).convert("RGBA"), holed(picture(20))):
        files = {"image": image, "mask": png(mask)}
        check(served.post(EDIT, files=files, data=said), 400, "mask")
    none = check(served.post(EDIT, files={"image": image}, data=said), 400, "mask", "transparency")
    assert "/v1/unclip/edit" in none["message"]
    for boxes in ("[[0, 0, 4]]", "[[0, 0, 99, 99]]", "[[4, 4, 4, 9]]", "[]", "x"):
        wrong = {**said, "boxes": boxes}
        check(served.post(EDIT, files={"image": image}, data=wrong), 400, "boxes")
    files = {"image": image, "mask": png(holed(picture()))}
    check(served.post(EDIT, files=files, data={**said, "size": "512x512"}), 400, "size")
    check(served.post(EDIT, files=files), 400, "prompt")
    check(served.post(EDIT, files=files, data={**said, "n": "1.5"}), 400, "n")


def test_keys_compared_and_never_in_the_address(pipe: Pipeline, tmp_path: Any) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nanna 0123456789abcdef\nfedcba9876543210\n")
    keys = read_keys(file)
    with serving(pipe, keys=keys) as one:
        sent = {"json": {"prompt": "", "size": "16x16", **FEW}}
        check(one.post(GENERATE, **sent), 401, says="missing")
        check(one.post(GENERATE, "another-0123456789", **sent), 401, says="wrong")
        check(one.http.get("/metrics"), 401)
        check(one.http.get(f"{GENERATE}?api_key=0123456789abcdef"), 400, says="address")
        assert one.post(GENERATE, "fedcba9876543210", **sent).status_code == 200
        assert one.http.get("/health").status_code == one.http.get("/ready").status_code == 200
    assert keys.client("Bearer 0123456789abcdef") == "anna"
    assert keys.client("Basic 0123456789abcdef") is None
    assert not Keys()
    for text in ("", "short\n", "a b 0123456789abcdef\n", "0123456789abcdef\n" * 2):
        file.write_text(text)
        with pytest.raises(ValueError, match="key"):
            read_keys(file)


def test_other_sites_and_other_names_may_not_ask(pipe: Pipeline) -> None:
    with serving(pipe, hosts=frozenset({"127.0.0.1"})) as one:
        evil = {"Origin": "http://evil.example"}
        answer = one.http.post(GENERATE, json={"prompt": "x"}, headers=evil)
        check(answer, 403)
        assert "access-control-allow-origin" not in answer.headers
        check(one.http.get("/v1/models", headers={"Host": "evil.example:80"}), 421)
        own = {"Origin": one.server.address}
        assert one.http.get("/v1/models", headers=own).status_code == 200


def test_bodies_too_long_or_too_slow(pipe: Pipeline) -> None:
    with serving(pipe, limits=Limits(body=50_000, body_seconds=0.3)) as one:
        check(one.post(GENERATE, json={"prompt": "x" * 10_000_000}), 413)
        form = {"files": {"image": ("a.png", b"x" * 100_000)}}
        check(one.post(VARY, **form), 413)

        def endless() -> Iterator[bytes]:
            for _ in range(1000):
                yield b"x" * 1000

        check(one.http.post(GENERATE, content=endless()), 413)
        host, port = one.server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            head = f"POST {GENERATE} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n"
            slow.sendall(head.encode() + b"{")
            slow.settimeout(30)
            assert b" 408 " in slow.recv(4096)
        assert one.post(GENERATE, json={"prompt": "", **FEW}).status_code == 200


def test_a_connection_that_says_nothing_is_closed(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unclip.interfaces.server.serving._Impatient.HEAD_SECONDS", 0.2)
    with serving(pipe) as one:
        host, port = one.server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as silent:
            silent.sendall(b"GET /health HTTP/1.1\r\nHost:")
            silent.settimeout(30)
            assert silent.recv(100) == b""
        assert one.post(GENERATE, json={"prompt": "", **FEW}).status_code == 200


def test_a_form_says_the_same_as_json(served: Served) -> None:
    image = BytesIO()
    picture().save(image, "PNG")
    texts = {k: str(v) for k, v in DECODED.items()}
    texts |= {"n": "2", "seed": "3", "size": "16x16", "sampler": "ddim", "eta": "0.5",
              "guidance_interval": "[0, Infinity]"}  # fmt: skip
    answer = served.post(VARY, files={"image": ("a.png", image.getvalue())}, data=texts)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == 2
