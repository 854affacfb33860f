"""Images computed at the same time, each on one thread: one thread's images, whatever happens."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from unclip import Pipeline
from unclip.device.threads import neighbours, side_by_side
from unclip.interfaces.cli import main
from unclip.outputs.images import read_info

STEPS: dict[str, Any] = {
    "prior_num_inference_steps": 1,
    "decoder_num_inference_steps": 2,
    "super_res_num_inference_steps": 1,
    "output_type": "tensor",
}
ENGINES = ["torch", *(["openvino"] if find_spec("openvino") else [])]


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("engine", ENGINES)
def test_images_are_those_of_one_thread(
    engine: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu", engine=engine)
    alone = pipe(["a star", "a red circle"], 2, **STEPS)
    torch.set_num_threads(2)
    try:
        seen: list[int] = []
        together = pipe(
            ["a star", "a red circle"], 2, side_by_side=True, **STEPS,
            callback_on_step_end=lambda *_: seen.append(neighbours()),
        )  # fmt: skip
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(together.images, alone.images)
    assert together.seeds == alone.seeds
    assert set(seen) == {2}
    assert len(seen) == 4 * (1 + 2 + 1)
    assert neighbours() == 1


@pytest.mark.usefixtures("two_threads")
def test_it_is_interrupted(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")

    def stop(pipe: Pipeline, *_: Any) -> None:
        pipe._interrupt = True

    made = pipe("a star", 5, side_by_side=True, callback_on_step_end=stop, **STEPS)
    assert 1 <= len(made.images) <= 2
    assert len(pipe("a star", 2, side_by_side=True, **STEPS).images) == 2


@pytest.mark.usefixtures("two_threads")
def test_a_failure_is_told_and_ends_the_others(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")
    calls = []

    def fail(*_: Any) -> None:
        calls.append(1)
        raise OSError("no paint")

    with pytest.raises(OSError, match="no paint"):
        pipe("a star", 6, side_by_side=True, callback_on_step_end=fail, **STEPS)
    assert len(calls) <= 6
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_results_come_in_order_and_without_gradients() -> None:
    weight = torch.ones(1, requires_grad=True)
    made = side_by_side([lambda k=k: weight * k for k in range(5)], stop=list)  # type: ignore[misc]
    assert [int(x) for x in made] == [0, 1, 2, 3, 4]
    assert not any(x.requires_grad for x in made)


def test_notes_say_so(tiny_model: Path, tmp_path: Path) -> None:
    words = ["--model", str(tiny_model), "--device", "cpu", "--steps", "fast", "--side-by-side"]
    assert main(["generate", "a star", *words, "-o", str(tmp_path / "x.png")]) == 0
    assert read_info(tmp_path / "x.png")["settings"]["side_by_side"] is True
