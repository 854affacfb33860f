"""A few trials of `make kill-test`, and that it would see what it looks for."""

from pathlib import Path

import pytest
from PIL import Image

from tests.kill.killing import Bench, _whole


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("kill"))


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_killed_and_resumed_it_ends_with_the_same_bits(seed: int, bench: Bench) -> None:
    assert bench.trial(seed) == []


def test_half_a_file_is_seen(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(tmp_path / "x.png")
    assert _whole(tmp_path) == []
    content = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(content[: len(content) // 2])
    assert len(_whole(tmp_path)) == 1
