"""How a lift is learned: pairs, batches, losses, early stopping."""

import copy
from dataclasses import asdict

import pytest
import torch

from hyperbolic import lorentz
from icl.bank.embedding import lift_fitting
from icl.bank.embedding.lift import CURVATURE_BOUNDS, HyperbolicLift
from icl.bank.embedding.lift_fitting import LiftTraining, disjoint_batches, entailment_loss, fit_lift, same_label_pairs
from icl.common.bounded import TEMPERATURE_BOUNDS


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded_lift(*args: object, **kwargs: object) -> HyperbolicLift:
    torch.manual_seed(0)
    return HyperbolicLift(*args, **kwargs)  # type: ignore[arg-type]


def hierarchy(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings of 12 concepts and 120 children in a few of many noisy directions, pairs, groups, levels.

    What is general has a direction of its own, the last, as texts have in CLIP.
    """
    concepts = torch.cat([torch.randn(12, 6, generator=generator(seed)), torch.zeros(12, 18)], 1)
    parent = torch.arange(120) % 12
    noise = torch.cat([0.4 * torch.ones(6), 1.5 * torch.ones(17), torch.zeros(1)])
    children = concepts[parent] + noise * torch.randn(120, 24, generator=generator(seed + 1))
    concepts[:, -1] = 3
    pairs = torch.stack([12 + torch.arange(120), parent], 1)
    level = torch.cat([torch.zeros(12), torch.ones(120)])
    return torch.cat([concepts, children]), pairs, torch.cat([torch.arange(12), parent]), level


def test_same_label_pairs() -> None:
    labels = [3, 1, 3, 2, 1, 3, 3, 7]
    pairs = same_label_pairs(labels, seed=4)
    # one for each row that has company, as first and as second, never with itself
    assert pairs[:, 0].tolist() == [0, 1, 2, 4, 5, 6]
    assert sorted(pairs[:, 1].tolist()) == [0, 1, 2, 4, 5, 6]
    assert all(labels[a] == labels[b] and a != b for a, b in pairs.tolist())
    assert torch.equal(pairs, same_label_pairs(torch.tensor(labels), seed=4))
    many = [0] * 50
    assert not torch.equal(same_label_pairs(many, seed=0), same_label_pairs(many, seed=1))
    assert same_label_pairs(["a", "b"]).shape == (0, 2)


def test_batches_never_repeat_a_group() -> None:
    groups = torch.randint(40, (500,), generator=generator())
    pairs = torch.stack([torch.arange(500), torch.arange(500).flip(0)], 1)
    batches = disjoint_batches(pairs, groups, 16, generator(1))
    for batch in batches:
        of = groups[batch[:, 0]]
        assert 2 <= len(batch) <= 16
        assert len(of.unique()) == len(of)
    together = torch.cat(batches)
    assert len(together.unique(dim=0)) == len(together)
    # only those that found no company are left out: fewer than the largest group
    assert len(together) > 500 - int(groups.bincount().max())
    assert not torch.equal(together, torch.cat(disjoint_batches(pairs, groups, 16, generator(2))))


def test_batches_without_groups() -> None:
    pairs = torch.arange(66).view(33, 2)
    batches = disjoint_batches(pairs, None, 16, generator())
    assert [len(batch) for batch in batches] == [16, 16]
    assert len(torch.cat(batches).unique(dim=0)) == 32


def test_entailment_loss_is_that_of_the_cones() -> None:
    """Angles by the hyperbolic law of cosines, at the general point of the triangle with the origin."""
    c = 0.75  # exact in any type
    general = lorentz.expmap0(torch.randn(50, 3, generator=generator()).double(), c=c)
    specific = lorentz.expmap0(2 * torch.randn(50, 3, generator=generator(1)).double(), c=c)
    r, s, d = (
        c**0.5 * length
        for length in (lorentz.dist0(general, c=c), lorentz.dist0(specific, c=c), lorentz.dist(general, specific, c=c))
    )
    at_general = torch.acos((r.cosh() * d.cosh() - s.cosh()) / (r.sinh() * d.sinh()))
    aperture = torch.asin((2 * 0.1 / r.sinh()).clamp(max=1))
    want = (torch.pi - at_general - aperture).clamp(min=0).mean()
    torch.testing.assert_close(entailment_loss(general, specific, torch.tensor(c).double()), want, rtol=1e-9, atol=0)
    along = lorentz.expmap0(torch.tensor([[3.0, 0.0]]))
    assert entailment_loss(lorentz.expmap0(torch.tensor([[1.0, 0.0]])), along, torch.tensor(1.0)) == 0


def test_fit_improves_what_it_reports_and_is_deterministic() -> None:
    embeddings, pairs, groups, level = hierarchy()
    results = []
    for seed in (0, 0, 1):
        lift = seeded_lift(24, dim=6)
        report = fit_lift(
            lift, embeddings, pairs, LiftTraining(15, learning_rate=1e-2, seed=seed), groups=groups, specificity=level
        )
        results.append((asdict(report), copy.deepcopy(lift.state_dict())))
    (first, weights), (second, same_weights), (third, _) = results
    assert first == second
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)
    assert first != third
    before, after = first["before"], first["after"]
    assert after["recall"][1] > before["recall"][1] + 0.2
    assert after["mean_rank"] < before["mean_rank"]
    assert after["loss"] == min([before["loss"], *first["dev_loss"]]) < before["loss"]
    assert CURVATURE_BOUNDS[0] < first["c"] < CURVATURE_BOUNDS[1]
    assert TEMPERATURE_BOUNDS[0] <= first["temperature"] <= TEMPERATURE_BOUNDS[1]


def test_cones_bring_the_general_nearer_to_the_origin() -> None:
    embeddings, pairs, groups, level = hierarchy()
    depth = {}
    for weight in (0.0, 1.0):
        training = LiftTraining(15, weight, learning_rate=1e-2)
        report = fit_lift(seeded_lift(24, dim=6), embeddings, pairs, training, groups=groups, specificity=level)
        depth[weight] = report.after.depth_against_specificity
    assert depth[1.0] is not None
    assert depth[0.0] is not None
    assert depth[1.0] > depth[0.0] + 0.5


def test_reported_quality_is_that_of_the_dev_pairs() -> None:
    embeddings, pairs, _, _ = hierarchy()
    lift = seeded_lift(24)
    fitted = fit_lift(lift, embeddings, pairs, LiftTraining(1, dev_fraction=0.25))
    dev = pairs[torch.randperm(120, generator=generator(0))][:30]
    with torch.no_grad():
        x, c = lift(embeddings).double(), lift.c.item()
    d = torch.tensor([[lorentz.dist(x[a], x[b], c=c).item() for b in dev[:, 1].unique()] for a in dev[:, 0]])
    own = torch.stack([d[i, (dev[:, 1].unique() == b).nonzero().item()] for i, b in enumerate(dev[:, 1])])
    rank = 1 + (d < own[:, None]).sum(1)
    assert fitted.after.recall == {k: pytest.approx((rank <= k).double().mean().item()) for k in (1, 5, 10)}
    assert fitted.after.mean_rank == pytest.approx(rank.double().mean().item())


def test_early_stopping_keeps_the_best_epoch() -> None:
    """A rate so high that it soon gets worse."""
    embeddings, pairs, groups, _ = hierarchy()
    lift = seeded_lift(24, dim=6)
    report = fit_lift(lift, embeddings, pairs, LiftTraining(60, learning_rate=0.3, patience=3), groups=groups)
    assert len(report.dev_loss) == report.best_epoch + 3 < 60
    assert report.best_epoch >= 1
    assert report.dev_loss[report.best_epoch - 1] == min(report.dev_loss) == report.after.loss
    # stopped there by itself, it has the same weights
    again = seeded_lift(24, dim=6)
    fit_lift(again, embeddings, pairs, LiftTraining(report.best_epoch, learning_rate=0.3), groups=groups)
    assert all(torch.equal(a, b) for a, b in zip(lift.state_dict().values(), again.state_dict().values()))


def test_nothing_is_kept_of_epochs_that_are_all_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, pairs, _, _ = hierarchy()
    lift = seeded_lift(24, dim=6)
    start = copy.deepcopy(lift.state_dict())
    worse = iter(range(1000))
    loss = lift_fitting.pairwise.contrastive_loss

    def rising(*args: object, **kwargs: object) -> torch.Tensor:
        return loss(*args, **kwargs) + 100.0 * next(worse)  # type: ignore[arg-type]

    monkeypatch.setattr(lift_fitting.pairwise, "contrastive_loss", rising)
    report = fit_lift(lift, embeddings, pairs, LiftTraining(9, patience=2))
    assert (report.best_epoch, len(report.dev_loss)) == (0, 2)
    assert all(torch.equal(start[name], value) for name, value in lift.state_dict().items())


def test_a_fixed_curvature_stays() -> None:
    embeddings, pairs, _, _ = hierarchy()
    lift = seeded_lift(24, dim=6, c=2.0, learn_curvature=False)
    assert fit_lift(lift, embeddings, pairs, LiftTraining(2)).c == pytest.approx(2.0, rel=1e-6)
    free = seeded_lift(24, dim=6, c=2.0)
    assert fit_lift(free, embeddings, pairs, LiftTraining(2)).c != pytest.approx(2.0, rel=1e-6)


def test_arguments_of_fit_lift() -> None:
    embeddings, pairs, groups, level = hierarchy()
    lift = HyperbolicLift(24)
    with pytest.raises(ValueError, match=r"fit_lift: there must be 4 pairs of rows or more, .*, got 3"):
        fit_lift(lift, embeddings, pairs[:3])
    for wrong in (pairs.float(), pairs[:, :1], pairs.flatten()):
        with pytest.raises(ValueError, match="fit_lift: pairs must be int64 of shape"):
            fit_lift(lift, embeddings, wrong)
    for shift in (-200, 200):
        with pytest.raises(ValueError, match="pairs must name rows of embeddings, 0 to 131"):
            fit_lift(lift, embeddings, pairs + shift)
    with pytest.raises(ValueError, match=r"groups must have shape \(132,\)"):
        fit_lift(lift, embeddings, pairs, groups=groups[:-1])
    with pytest.raises(ValueError, match=r"specificity must have shape \(132,\)"):
        fit_lift(lift, embeddings, pairs, specificity=level[:, None])
    for settings in (
        {"epochs": 0},
        {"batch_size": 1},
        {"dev_fraction": 1.0},
        {"temperature": 2.0},
        {"entailment": -1.0},
    ):
        with pytest.raises(ValueError, match=f"LiftTraining: {next(iter(settings))} must be"):
            LiftTraining(**settings)
