import pytest
import torch

from unclip.diffusion.guidance import Guidance, guide, guided

COND, UNCOND = torch.randn(2, 4, 6, 8, 8, generator=torch.Generator().manual_seed(0))


def test_scales():
    torch.testing.assert_close(guided(COND, UNCOND, 1.0), COND)
    torch.testing.assert_close(guided(COND, UNCOND, 0.0), UNCOND)
    torch.testing.assert_close(guided(COND, UNCOND, 8.0), UNCOND + 8 * (COND - UNCOND))


def test_variance_is_the_conditional_branchs():
    cond = COND.clone()
    result = guided(cond, UNCOND, 8.0, channels=3)
    assert torch.equal(result[:, 3:], COND[:, 3:])
    torch.testing.assert_close(result[:, :3], guided(COND[:, :3], UNCOND[:, :3], 8.0))
    assert torch.equal(cond, COND)  # the inputs are not written to


def test_rescale_matches_the_conditional_deviation():
    def std(x):
        return x.std((1, 2, 3))

    torch.testing.assert_close(std(guided(COND, UNCOND, 8.0, rescale=1.0)), std(COND))
    plain, half = guided(COND, UNCOND, 8.0), guided(COND, UNCOND, 8.0, rescale=0.5)
    torch.testing.assert_close(std(half), (std(plain) + std(COND)) / 2)


def test_float32_from_half_precision():
    assert guided(COND.bfloat16(), UNCOND.bfloat16(), 2.0, channels=3).dtype == torch.float32


def test_interval_and_unused_branch():
    guidance = Guidance(scale=4.0, interval=(0.3, 5.0))
    assert [guidance.active(s) for s in (0.29, 0.3, 5.0, 5.1)] == [False, True, True, False]
    assert Guidance(scale=4.0).active(999.0)
    assert Guidance(scale=4.0, interval=(0.0, float("inf"))).active(1e9)
    assert not Guidance(scale=1.0).active(0.5)
    torch.testing.assert_close(guidance(COND, UNCOND, 3), guided(COND, UNCOND, 4.0, channels=3))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"scale": -1.0},
        {"scale": float("nan")},
        {"interval": (5.0, 4.0)},
        {"interval": (-1.0, 4.0)},
        {"interval": (0.0, float("nan"))},
        {"rescale": 1.1},
    ],
)
def test_bad_guidance(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        Guidance(**kwargs)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        guided(COND, UNCOND[:, :3], 2.0)


def test_guidance_asks_for_both_branches_only_where_it_must() -> None:
    asked: list[bool] = []

    def network(x: torch.Tensor, t: float, both: bool) -> torch.Tensor:
        asked.append(both)
        return torch.cat([x[: len(x) // 2] + 1, x[len(x) // 2 :] - 1]) if both else x + 1

    x = torch.zeros(2, 3)
    t = torch.tensor([5, 5])
    assert torch.equal(guide(network, Guidance(1.0), lambda _: False, 3)(x, t), x + 1)
    assert torch.equal(guide(network, Guidance(0.0), {5}.__contains__, 3)(x, t), x - 1)
    assert torch.equal(guide(network, Guidance(3.0), {5}.__contains__, 3)(x, t), x + 5)
    assert torch.equal(guide(network, Guidance(3.0), {4, 6}.__contains__, 3)(x, t), x + 1)
    assert asked == [False, True, True, False]
