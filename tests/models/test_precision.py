"""Which precision is used."""

import pytest
import torch

from unclip.models import precision

CPU = torch.device("cpu")


def test_names_mean_types() -> None:
    assert precision.resolve("fp32", CPU) == torch.float32
    assert precision.resolve("bf16", CPU) == torch.bfloat16
    for name, dtype in precision.DTYPES.items():
        assert precision.name_of(dtype) == name
        assert precision.resolve(dtype, CPU) == dtype
    with pytest.raises(ValueError, match="'fp64' is not one of auto, fp32, bf16, fp16"):
        precision.resolve("fp64", CPU)


@pytest.mark.parametrize("fast", [torch.float32, torch.bfloat16])
def test_auto_takes_the_faster_one(fast: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {dtype: 1.0 + (dtype == fast) for dtype in (torch.float32, torch.bfloat16)}
    monkeypatch.setattr(precision, "matmul_speeds", lambda n: speeds)
    precision.fastest_dtype.cache_clear()
    assert precision.resolve("auto", CPU) == fast
    precision.fastest_dtype.cache_clear()


def test_speeds_are_measured() -> None:
    speeds = precision.matmul_speeds(32, repeats=2)
    assert set(speeds) == {torch.float32, torch.bfloat16}
    assert min(speeds.values()) > 0


def test_full_precision_inside_autocast() -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with precision.full_precision(CPU):
            assert (x @ x).dtype == torch.float32
