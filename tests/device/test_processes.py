"""Which process this is comes from the environment, which may hold anything."""

import pytest

from unclip.device.processes import Process, this_process


def test_torchrun_tells_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert this_process() == Process(0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert this_process() == Process(2, 3)


@pytest.mark.parametrize(
    ("rank", "count", "said"),
    [
        ("x", "2", "RANK in the environment is 'x', not a whole number"),
        ("0", "²", "WORLD_SIZE in the environment is '²'"),
        ("-1", "2", "RANK in the environment is '-1'"),
        ("2", "2", "RANK=2 and WORLD_SIZE=2 in the environment do not fit"),
        ("0", "0", "RANK=0 and WORLD_SIZE=0 in the environment do not fit"),
    ],
)
def test_what_is_no_process_is_refused(
    rank: str, count: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(ValueError, match=said):
        this_process()
