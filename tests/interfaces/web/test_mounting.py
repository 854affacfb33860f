"""What of the page's address space is there, with and without keys, and what of it is refused."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.interfaces.server.conftest import Served, serving
from tests.interfaces.web.conftest import with_page
from unclip.interfaces.cli.commands.serve import _NO_PAGE, _with_page
from unclip.interfaces.server.app import application
from unclip.interfaces.server.bodies import Limits
from unclip.interfaces.server.desk import Desk
from unclip.interfaces.server.keys import COOKIE, Keys
from unclip.pipeline.pipeline import Pipeline

KEY = "a-key-of-some-length"


def test_the_page_and_the_api_are_one_server(served: Served) -> None:
    page = served.http.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    config = served.http.get("/config").json()
    assert config["analytics_enabled"] is False
    assert served.http.get("/health").json() == {"status": "ok"}
    assert served.http.get("/v1/models").status_code == 200
    assert served.http.get("/docs").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/v1/nothing", "/monitoring", "/gradio_api/proxy=http://127.0.0.1/",
     "/gradio_api/vibe-code", "/gradio_api/runs", "/gradio_api/deep_link", "/gradio_api/stream/x"],
)  # fmt: skip
def test_nothing_else_of_gradio_is_there(served: Served, path: str) -> None:
    answer = served.http.get(path)
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_files_of_this_machine_are_not_there(served: Served, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    answer = served.http.get(f"/gradio_api/file={tmp_path}/secret.txt")
    assert answer.status_code in (403, 404)
    assert "secret" not in answer.text.replace("secret.txt", "")


def test_a_browser_shows_its_key_once(pipe: Pipeline) -> None:
    limits = Limits(body=2**16)
    with serving(pipe, with_page, keys=Keys({KEY: "somebody"}), limits=limits) as one:
        asked = one.http.get("/")
        assert "type=password" in asked.text
        assert one.http.get("/config").status_code == 401
        assert one.http.get("/gradio_api/app_id").json().keys() == {"app_id"}
        wrong = one.http.post("/login", data={"key": "another-key-of-length"})
        assert (wrong.status_code, "wrong" in wrong.text) == (401, True)
        shown = one.http.post("/login", data={"key": KEY})
        assert shown.status_code == 303
        cookie = shown.headers["set-cookie"]
        assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", COOKIE))
        assert KEY not in cookie
        assert one.http.get("/config").status_code == 200
        assert "type=password" not in one.http.get("/").text
        assert one.http.get("/", headers={"Cookie": f"{COOKIE}=made-up"}).status_code == 200
        with contextlib.suppress(httpx2.TransportError):  # closed before all of it was sent
            assert one.http.post("/gradio_api/upload", content=b"x" * 2**21).status_code == 413


def test_without_gradio_there_is_the_api_alone(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    desk: Any = Desk(pipe, "tiny")
    assert _with_page(application(desk), desk) is False
    assert "pip install 'unclip[web]'" in _NO_PAGE
