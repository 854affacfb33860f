"""Dockerfile, compose.yaml and .dockerignore: what can be known of them without Docker."""

import json
import re
import subprocess
import sys
import threading
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from unclip.interfaces.cli.commands.serve import Serve
from unclip.interfaces.cli.options import parse

ROOT = Path(__file__).parents[2]
LINES = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text()).splitlines()


def steps(name: str) -> list[str]:
    """What follows an instruction of the Dockerfile."""
    return [line.removeprefix(name).strip() for line in LINES if line.startswith(f"{name} ")]


def compose() -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_what_is_copied_is_there_and_not_ignored() -> None:
    rules = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]  # fmt: skip
    copied = [
        word for step in steps("COPY") if not step.startswith("--from")
        for word in step.split()[:-1]
    ]  # fmt: skip
    assert {"src", "pyproject.toml", "README.md"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists()
        ignored = False
        for rule in rules:
            if fnmatch(name, rule.lstrip("!")):
                ignored = not rule.startswith("!")
        assert not ignored, name


def test_nobody_is_root_and_a_signal_finishes_what_runs() -> None:
    assert steps("USER")[-1] == "10001"
    assert LINES.index("USER 10001") > max(
        number for number, line in enumerate(LINES) if line.startswith("RUN ")
    )
    assert steps("STOPSIGNAL") == ["SIGTERM"]
    service = compose()["services"]["unclip"]
    minutes = re.fullmatch(r"(\d+)m", service["stop_grace_period"])
    assert minutes
    assert int(minutes[1]) * 60 > Serve().timeout


def test_the_commands_are_ones_that_unclip_takes() -> None:
    file, service = json.loads(steps("CMD")[-1]), compose()["services"]["unclip"]
    assert json.loads(steps("ENTRYPOINT")[-1]) == ["unclip"]
    for command, *words in (file, service["command"]):
        assert command == "serve"
        options = parse(Serve, "serve", words)
        assert (options.host, options.port) == ("0.0.0.0", 8000)
        assert options.api_key_file == Path("/run/secrets") / service["secrets"][0]
    assert set(service["secrets"]) == set(compose()["secrets"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_extras_are_there() -> None:
    import tomllib

    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [names] = re.findall(r"\.\[([\w,]+)\]", "\n".join(steps("RUN")))
    assert set(names.split(",")) <= set(known["optional-dependencies"])


@pytest.mark.parametrize("status", [200, 503])
def test_the_health_check_asks_for_health(status: int) -> None:
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    [check] = re.findall(r"HEALTHCHECK .*CMD (\[.*\])", "\n".join(LINES))
    words = json.loads(check)
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request).start()
        code = words[2].replace("8000", str(server.server_port))
        done = subprocess.run([sys.executable, words[1], code], capture_output=True)
    assert (done.returncode == 0) == (status == 200)
    assert asked == ["/health"]
