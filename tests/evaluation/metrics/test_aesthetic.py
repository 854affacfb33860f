"""The aesthetic probe: ridge regression as scikit-learn does it, and published probes."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from unclip.evaluation.features.extractor import open_extractor
from unclip.evaluation.metrics.aesthetic import _PENALTIES, Probe, _ridge, fit
from unclip.files import write_safetensors

WIDTH = 10


def rated(count: int, noise: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of any length, and ratings that a line gives, with noise."""
    generator = torch.Generator().manual_seed(seed)
    z_i = torch.randn(count, WIDTH, generator=generator).double() + 0.3
    weight = torch.linspace(-2, 3, WIDTH).double()
    clean = F.normalize(z_i) @ weight + 5
    return z_i, clean + noise * torch.randn(count, generator=generator).double()


def test_a_line_is_found() -> None:
    z_i, ratings = rated(300, 0.0)
    found = fit(z_i, ratings, "abc")
    assert found.r2.value > 0.9999
    assert (found.fitted, found.held_out) == (240, 60)
    torch.testing.assert_close(found.probe(7 * z_i), ratings, atol=1e-2, rtol=0)
    assert found.probe.score(z_i).value == pytest.approx(float(ratings.mean()), abs=1e-3)
    assert set(found.to_dict()) == {"r2", "fitted", "held_out", "penalty"}


def test_noise_is_not_learned() -> None:
    """R² of held-out images is near what the noise leaves, and at 0 where there is nothing."""
    z_i, ratings = rated(800, 1.2)
    signal = float((rated(800, 0.0)[1]).var() / ratings.var())
    found = fit(z_i, ratings)
    assert found.r2.low < signal < found.r2.high
    nothing = fit(z_i, torch.randn(800, generator=torch.Generator().manual_seed(5)))
    assert abs(nothing.r2.value) < 0.1
    assert nothing.penalty > found.penalty


def test_it_is_scikit_learns_ridge() -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    z_i, ratings = rated(60, 1.0)
    rows = F.normalize(z_i)
    weight, bias, penalty = _ridge(rows, ratings)
    centred = rows - rows.mean(dim=0)
    unit = float(centred.square().sum()) / WIDTH
    theirs = sklearn.RidgeCV([p * unit for p in _PENALTIES]).fit(rows.numpy(), ratings.numpy())
    assert theirs.alpha_ == pytest.approx(penalty * unit)
    torch.testing.assert_close(weight, torch.from_numpy(theirs.coef_), atol=1e-6, rtol=1e-6)
    assert bias == pytest.approx(theirs.intercept_, abs=1e-6)


def test_a_probe_is_kept(tmp_path: Path, tiny_model: Path) -> None:
    z_i, ratings = rated(100, 0.2)
    probe = fit(z_i, ratings, "0123456789abcdef").probe
    probe.save(tmp_path / "probe.safetensors")
    again = Probe.open(tmp_path / "probe.safetensors")
    assert torch.equal(again(z_i), probe(z_i))
    assert again.extractor == "0123456789abcdef"
    assert again.facts is not None
    assert again.facts["fitted"] == "80"
    with pytest.raises(ValueError, match="fitted to the extractor 0123456789abcdef, not to tiny"):
        again.check_fits(open_extractor(tiny_model, device="cpu"))
    with pytest.raises(ValueError, match="width 10, and tiny gives"):
        Probe(probe.weight, 0.0).check_fits(open_extractor(tiny_model, device="cpu"))


def test_published_probes_open(tmp_path: Path) -> None:
    """LAION's, Crowson's, and one of several layers, for the same ratings."""
    z_i, weight, bias = rated(5, 0)[0], torch.randn(1, WIDTH), torch.randn(1)
    expected = F.normalize(z_i) @ weight[0].double() + bias.double()
    first, second = torch.randn(WIDTH, WIDTH), torch.randn(WIDTH)
    last = weight @ torch.linalg.inv(first)
    layered = {
        "layers.0.weight": first, "layers.0.bias": second,
        "layers.2.weight": last, "layers.2.bias": bias - last @ second,
    }  # fmt: skip
    for tensors in (
        {"weight": weight, "bias": bias},
        {"linear.weight": weight / WIDTH**0.5, "linear.bias": bias},
        {"predictor.weight": weight, "predictor.bias": bias},
        layered,
    ):
        write_safetensors(tmp_path / "probe.safetensors", tensors)
        found = Probe.open(tmp_path / "probe.safetensors")(z_i)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"weight": torch.ones(1, 3)}, "layer 0 is not a weight"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, "does not end in one number"),
        ({"weight": torch.ones(1, 3), "bias": torch.ones(1), "x": torch.ones(1)}, "a tensor 'x'"),
        ({"weight": torch.full((1, 3), torch.nan), "bias": torch.ones(1)}, "not finite"),
        (
            {"layers.0.weight": torch.ones(2, 3), "layers.0.bias": torch.ones(2),
             "layers.1.weight": torch.ones(1, 3), "layers.1.bias": torch.ones(1)},
            "do not fit each other",
        ),
    ],
)  # fmt: skip
def test_what_is_no_probe(tensors: dict[str, torch.Tensor], says: str, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "probe.safetensors", tensors)
    with pytest.raises(ValueError, match=says):
        Probe.open(tmp_path / "probe.safetensors")


def test_pickles_and_bad_ratings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"probe\.pth is a pickle"):
        Probe.open(tmp_path / "probe.pth")
    z_i, ratings = rated(30, 0.1)
    for z, r, says in (
        (z_i, ratings[:5], "need as many finite ratings"),
        (z_i, torch.where(ratings > 5, torch.nan, ratings), "need as many finite ratings"),
        (z_i, torch.ones(30), "all ratings are equal"),
        (z_i[:11], ratings[:11], "too few"),
    ):
        with pytest.raises(ValueError, match=says):
            fit(z, r)
    with pytest.raises(ValueError, match="embeddings of width 10, not 4"):
        fit(z_i, ratings).probe(z_i[:, :4])
