"""The lift: the radius of its points, the bounds of its curvature, its files."""

import math
from pathlib import Path

import pytest
import torch

from hyperbolic import lorentz
from icl.bank.embedding.lift import CURVATURE_BOUNDS, HyperbolicLift


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded_lift(*args: object, **kwargs: object) -> HyperbolicLift:
    torch.manual_seed(0)
    return HyperbolicLift(*args, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize("c", [0.3, 1.0, 5.0])
def test_points_lie_at_distance_one_in_the_direction_of_the_embedding(c: float) -> None:
    e = torch.randn(20, 7, generator=generator()) * torch.logspace(-3, 3, 20)[:, None]
    x = HyperbolicLift(7, c=c)(e).double()
    # |x| = sinh(sqrt(c) d)/sqrt(c)
    torch.testing.assert_close(torch.asinh(c**0.5 * x.norm(dim=1)) / c**0.5, torch.ones(20).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.cosine_similarity(x, e.double()), torch.ones(20).double(), rtol=1e-6, atol=0)


def test_a_head_keeps_lengths_on_average() -> None:
    e = torch.randn(4000, 64, generator=generator())
    x = seeded_lift(64, dim=8)(e)
    depth = lorentz.dist0(x)
    assert x.shape == (4000, 8)
    assert depth.square().mean().item() == pytest.approx(1.0, rel=0.05)


def test_curvature_stays_inside_its_bounds_and_starts_where_it_is_told() -> None:
    low, high = CURVATURE_BOUNDS
    lift = HyperbolicLift(3, c=2.5)
    assert lift.c.item() == pytest.approx(2.5, rel=1e-6)
    for raw, want in ((-200.0, low), (200.0, high)):
        with torch.no_grad():
            lift.raw_c.fill_(raw)
        assert lift.c.item() == pytest.approx(want)
    assert HyperbolicLift(3).raw_c.requires_grad
    assert not HyperbolicLift(3, learn_curvature=False).raw_c.requires_grad


def test_arguments_of_a_lift() -> None:
    for c in (0.0, 0.1, 10.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="c must be between"):
            HyperbolicLift(3, c=c)
    for width, dim in ((0, None), (3, 0)):
        with pytest.raises(ValueError, match="must be positive"):
            HyperbolicLift(width, dim)
    with pytest.raises(ValueError, match=r"must have width 3, got \(2, 4\)"):
        HyperbolicLift(3)(torch.zeros(2, 4))


@pytest.mark.parametrize("dim", [None, 3])
def test_save_and_load(dim: int | None, tmp_path: Path) -> None:
    lift = seeded_lift(5, dim=dim, c=0.7, learn_curvature=False)
    with torch.no_grad():
        lift.log_scale.fill_(0.3)
    lift.save(tmp_path / "lift")
    again = HyperbolicLift.load(tmp_path / "lift")
    e = torch.randn(4, 5, generator=generator())
    assert torch.equal(again(e), lift(e))
    assert torch.equal(again.c, lift.c)
    assert again.config == lift.config
    assert not again.raw_c.requires_grad


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "lift"
    seeded_lift(5, dim=3).save(folder)
    config, weights = folder / "lift.json", folder / "lift.safetensors"
    text, data = config.read_text(), weights.read_bytes()
    for broken in ("{", "[]", '{"width": 5, "surprise": 1}', text.replace('"dim": 3', '"dim": 4'), "{}"):
        config.write_text(broken)
        with pytest.raises(ValueError, match=f"{folder.name} holds no lift that this version reads"):
            HyperbolicLift.load(folder)
    config.write_text(text)
    for shorter in (data[: len(data) // 2], b"", b"\xff" * 40):
        weights.write_bytes(shorter)
        with pytest.raises(ValueError, match="holds no lift that this version reads"):
            HyperbolicLift.load(folder)
    weights.unlink()
    with pytest.raises(ValueError, match="holds no lift that this version reads"):
        HyperbolicLift.load(folder)
