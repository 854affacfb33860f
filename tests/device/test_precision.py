"""Which precision is used."""

from collections.abc import Iterator

import pytest
import torch

from tests.machines import PLAIN, WITH_BF16, WITHOUT_BF16
from unclip.device import precision
from unclip.device.instructions import Instructions

CPU = torch.device("cpu")


def test_names_mean_types() -> None:
    assert precision.dtype_named("fp32", CPU) == torch.float32
    assert precision.dtype_named("bf16", CPU) == torch.bfloat16
    for name, dtype in precision.DTYPES.items():
        assert precision.name_of(dtype) == name
        assert precision.dtype_named(dtype, CPU) == dtype
    with pytest.raises(ValueError, match="'fp64' is not one of auto, fp32, bf16, fp16"):
        precision.dtype_named("fp64", CPU)


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "device_named", torch.device)
    monkeypatch.setenv("LOCAL_RANK", "3")
    found = [str(precision.device_of_process(name)) for name in ("cuda", "cuda:1", "cpu")]
    assert found == ["cuda:3", "cuda:1", "cpu"]


@pytest.fixture
def anew() -> Iterator[None]:
    """What was chosen for the machine as it is is forgotten, before and after."""
    precision.fastest_dtype.cache_clear()
    yield
    precision.fastest_dtype.cache_clear()


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("fast", [torch.float32, torch.bfloat16])
def test_auto_takes_the_faster_one(fast: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {dtype: 1.0 + (dtype == fast) for dtype in (torch.float32, torch.bfloat16)}
    monkeypatch.setattr(precision, "instructions", lambda: WITH_BF16)
    monkeypatch.setattr(precision, "matmul_speeds", lambda n: speeds)
    assert precision.dtype_named("auto", CPU) == fast


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("cpu", [PLAIN, WITHOUT_BF16])
def test_what_a_cpu_would_emulate_is_neither_chosen_nor_timed(
    cpu: Instructions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "instructions", lambda: cpu)
    assert set(precision.matmul_speeds(8, repeats=1)) == {torch.float32}
    monkeypatch.setattr(precision, "matmul_speeds", None)  # one type is no choice
    assert precision.dtype_named("auto", CPU) == torch.float32


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("has", [False, True])
def test_gpus_are_asked_too(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older ones emulate bf16, of which torch speaks as support."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: has or including_emulation
    )
    assert precision.fastest_dtype("cuda") == (torch.bfloat16 if has else torch.float32)
    assert precision.fastest_dtype("mps") == torch.float32


def test_speeds_are_measured() -> None:
    speeds = precision.matmul_speeds(32, repeats=2)
    assert set(speeds) == set(precision.types_of("cpu"))
    assert min(speeds.values()) > 0


def test_full_precision_inside_autocast() -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with precision.full_precision(CPU):
            assert (x @ x).dtype == torch.float32
