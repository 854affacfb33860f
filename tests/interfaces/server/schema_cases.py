"""Requests that schemathesis makes of the schema: none is a fault of the server's, none a 422.

An engine that makes grey images at once stands in for the model. No part of `make test`, since
schemathesis takes half a minute to read each address's schema: `make fuzz-api` runs it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from PIL import Image

from tests.interfaces.server.conftest import Served, serving
from unclip.interfaces.server.app import ROUTES
from unclip.interfaces.server.describing import schema
from unclip.pipeline.pipeline import Pipeline

CASES = int(os.environ.get("API_CASES", "2"))
"""Of each address."""
_REFUSED = {400, 404, 405, 408, 413, 415, 429}
_schema = schemathesis.openapi.from_dict(schema(ROUTES, "tiny"))


class Grey:
    """An engine."""

    def key(self, item: Any) -> str:
        return "grey"

    def compute(self, items: Sequence[Any], watch: Callable[..., None]) -> list[Image.Image]:
        return [Image.new("RGB", (8, 8)) for _ in items]


@pytest.fixture(scope="module")
def grey(pipe: Pipeline) -> Iterator[Served]:
    with serving(pipe) as one:
        one.desk.scheduler.engine = Grey()
        yield one


@_schema.parametrize()
@settings(
    max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
def test_no_request_is_a_fault_of_the_servers(case: Any, grey: Served) -> None:
    answer = case.call(base_url=grey.server.address, timeout=60)
    assert answer.status_code == 200 or answer.status_code in _REFUSED, answer.text
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"].isprintable()
