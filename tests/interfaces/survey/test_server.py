"""The page's server, asked without a browser: above all, what it refuses."""

import http.client
import json
from typing import Any

import pytest

from unclip.evaluation.people.survey import Survey
from unclip.interfaces.survey.server import SurveyServer


def ask(
    server: SurveyServer, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """A request with the headers of the page, or those given ("_" for "-", None for none)."""
    given = {"Host": f"127.0.0.1:{server.server_port}"}
    data = None
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given |= {"Content-Type": "application/json", "X-Token": server.survey.secret}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("POST" if body is not None else "GET", path, data, given)
    reply = connection.getresponse()
    found = reply.status, dict(reply.getheaders()), reply.read()
    connection.close()
    return found


def answer(survey: Survey, **changed: Any) -> dict[str, Any]:
    key = survey.state()["key"]
    return {"key": key, "choice": "first", "seconds": 1.5, "nonce": "click-0001", **changed}


def test_the_page_is_one_file_and_runs_only_its_own_script(server: SurveyServer) -> None:
    status, headers, body = ask(server, "/")
    page = body.decode()
    assert status == 200
    assert "{{" not in page
    assert "http://" not in page
    assert "https://" not in page
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    nonce = policy.rpartition("'nonce-")[2].rstrip("'")
    assert f'<script nonce="{nonce}">' in page
    assert nonce not in ask(server, "/")[1]["Content-Security-Policy"]


def test_a_question_its_images_and_an_answer(server: SurveyServer) -> None:
    state = json.loads(ask(server, "/question")[2])
    assert (state["number"], state["total"], state["done"]) == (0, 6, 0)
    status, headers, image = ask(server, f"/image/{state['sides'][0][0]}")
    assert (status, headers["Content-Type"], image[:4]) == (200, "image/png", b"\x89PNG")
    status, _, reply = ask(server, "/answer", answer(server.survey))
    assert (status, json.loads(reply)) == (200, {"next": 1})
    assert json.loads(ask(server, "/question?0")[2])["choice"] == "first"
    for query in ("99999999", "-1", "x", "1&2", "9" * 30):  # no such question: the next one
        assert json.loads(ask(server, f"/question?{query}")[2])["number"] == 1


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/", None, {"Host": "evil.example:8765"}, 421),  # DNS rebinding
        ("/", None, {"Host": "127.0.0.1"}, 421),
        ("/question", None, {"Host": "evil.example"}, 421),
        ("/answer", {}, {"Host": "evil.example"}, 421),
        ("/answer", {}, {"Origin": "http://evil.example"}, 403),
        ("/answer", {}, {"Origin": "null"}, 403),
        ("/answer", {}, {"X_Token": ""}, 403),
        ("/answer", {}, {"X_Token": "guess"}, 403),
        ("/answer", {}, {"Content_Type": "text/plain"}, 400),  # what a form could send
        ("/answer", b"[", {}, 400),
        ("/answer", b"[]", {}, 400),
        ("/answer", b"[" * 4000, {}, 400),
        ("/answer", b"x" * 5000, {}, 413),
        ("/answer", {"choice": "third"}, {}, 409),
        ("/answer", {"key": "unknown"}, {}, 409),
        ("/answer", {"key": 3}, {}, 400),
        ("/answer", {"seconds": "long"}, {}, 400),
        ("/answer", {"seconds": float("nan")}, {}, 400),
        ("/answer", {"seconds": 10**400}, {}, 400),
        ("/answer", {}, {"Content_Length": "\u00b2"}, 400),
        ("/answer", {}, {"Content_Length": "9" * 5000}, 400),
        ("/answer", {"nonce": "x" * 65}, {}, 400),
        ("/answer", {"nonce": "\ud800" * 9}, {}, 409),
        ("/other", {}, {}, 404),
        ("/answer", None, {}, 404),  # only by POST
        ("/image/..%2Fa", None, {}, 404),
        ("/image/../../etc/passwd", None, {}, 404),
        ("/a/0-00.png", None, {}, 404),
    ],
)
def test_refused(
    path: str, body: Any, headers: dict[str, str], status: int, server: SurveyServer
) -> None:
    if isinstance(body, dict):
        body = answer(server.survey, **body)
    found, _, reply = ask(server, path, body, **headers)
    assert found == status
    assert json.loads(reply)["error"]
    assert server.survey.answers.read() == []


def test_a_port_in_use(server: SurveyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"cannot be used .*leave --port out"):
        SurveyServer(server.survey, server.server_port)
    monkeypatch.setattr("unclip.interfaces.survey.server.PORT", server.server_port)
    with SurveyServer(server.survey) as other:  # a free one is taken
        assert other.server_port != server.server_port
        assert other.address.startswith("http://127.0.0.1:")
