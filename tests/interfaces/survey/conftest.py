"""A survey that is served while a test runs."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evaluation.people.sets import CAPTIONS, image_set
from unclip.evaluation.people.answers import Answers
from unclip.evaluation.people.folders import read_folders
from unclip.evaluation.people.questions import questions_of
from unclip.evaluation.people.survey import Survey
from unclip.interfaces.survey.server import SurveyServer


@pytest.fixture
def survey(tmp_path: Path) -> Survey:
    """Two models; two questions of each kind, one of whose captions is hostile."""
    captions = ("<img src=x onerror=alert(1)> & a star", CAPTIONS[1])
    folders = [image_set(tmp_path / n, 90 * k, 16, captions) for k, n in enumerate("ab")]
    questions, _ = questions_of(read_folders(folders), (), 2, 0)
    return Survey(questions, Answers(tmp_path / "answers.sqlite"), "", 0)


@pytest.fixture
def server(survey: Survey) -> Iterator[SurveyServer]:
    """At a free port."""
    with SurveyServer(survey, _free_port()) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
