"""Does the hyperbolic score choose better demonstrations?

Writes docs/ranking.csv and .png and a block of docs/evidence.md.

The labels are the taxonomy of WordNet's mammals; the embeddings are made up, in the manner of CLIP's: a concept is its
parent plus noise that shrinks with depth, an image is its concept plus noise and a style that has nothing to do with
the label, a text is a question that tells little of it; all of unit length. A bank has images of all concepts, general
and specific; queries are other images of the most specific ones. A lift learns from pairs (image, concept) and
(concept, parent), and so does a linear head with cosines, which has the same supervision and no hyperbolic geometry. A
part of the queries' concepts is kept from both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from harness import evidence, table
from harness.hierarchy import WORDNET, Hierarchy
from harness.report import COLORS, lines
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from icl.bank import AnchorBank, HyperbolicLift, Queries, select
from icl.bank.embedding.lift_fitting import LiftTraining, disjoint_batches, fit_lift
from icl.common.choices import Strategy

DOCS = Path(__file__).parent.parent / "docs"
SIGNAL, NUISANCE, DIM = 48, 16, 16  # dimensions of embeddings, and of points
SHRINK = 0.75  # of a concept's offset from its parent, per level
IMAGE_NOISE, STYLE, STYLES, TEXT_NOISE = 0.2, 0.5, 12, 0.1
QUESTION_DEPTH = 2  # a question names the category at this depth, no more
UNSEEN = 0.3  # of the leaves, which nothing is trained on
ENTAILMENT = 0.1
DEPTH_WEIGHTS = (-0.3, 0.0, 0.1, 0.3, 0.6)
PLAIN = "hyperbolic"
RICES, LINEAR = "RICES (cosine)", "linear head, cosine"
LEVELS = ("same concept", "same parent", "same family")
FAMILY = 3  # depth of the ancestor that a family shares
METRICS = (*LEVELS, "Wu-Palmer", "nDCG")
SPLITS = ("seen", "unseen")


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    images: int  # of each concept, in the bank
    k: int
    epochs: int
    seeds: int
    resamples: int = 1000


FULL, QUICK = Size(images=4, k=8, epochs=25, seeds=5), Size(images=2, k=3, epochs=2, seeds=2, resamples=50)


class World:
    """Embeddings of concepts, images and questions."""

    def __init__(self, hierarchy: Hierarchy, seed: int):
        self.hierarchy, self.generator = hierarchy, torch.Generator().manual_seed(seed)
        self.centres = torch.zeros(len(hierarchy), SIGNAL)
        for node in hierarchy.depths.argsort().tolist():
            parent, depth = hierarchy.parents[node], int(hierarchy.depths[node])
            if depth:
                self.centres[node] = self.centres[parent] + SHRINK**depth * self._noise(SIGNAL)
        self.styles = STYLE * self._noise(STYLES, NUISANCE)
        # image and text embeddings of CLIP lie apart
        self.gap = self._noise(SIGNAL + NUISANCE)

    def _noise(self, *shape: int) -> Tensor:
        """Of length 1 on average."""
        return torch.randn(*shape, generator=self.generator) / sqrt(shape[-1])

    def images(self, nodes: Tensor) -> Tensor:
        """Return embeddings of images of these nodes."""
        content = self.centres[nodes] + IMAGE_NOISE * self._noise(len(nodes), SIGNAL)
        style = self.styles[torch.randint(STYLES, (len(nodes),), generator=self.generator)]
        return normalize(torch.cat([content, style], 1), dim=1)

    def texts(self, nodes: Tensor) -> Tensor:
        """Return embeddings of texts about these nodes."""
        content = self.centres[nodes] + TEXT_NOISE * self._noise(len(nodes), SIGNAL)
        return normalize(torch.cat([content, torch.zeros(len(nodes), NUISANCE)], 1) + self.gap, dim=1)

    def questions(self, nodes: Tensor) -> Tensor:
        """Return embeddings of questions about these nodes."""
        return self.texts(ancestors_at(self.hierarchy, QUESTION_DEPTH)[nodes])


def ancestors_at(hierarchy: Hierarchy, depth: int) -> Tensor:
    """Of every node the ancestor at this depth, or the node itself where it is not as deep, (N,)."""
    reached = torch.where(hierarchy.depths <= depth, hierarchy.depths, -1)
    return torch.where(hierarchy.tree, reached, -1).argmax(1)


def linear_head(embeddings: Tensor, pairs: Tensor, groups: Tensor, epochs: int, seed: int) -> nn.Linear:
    """What ``icl.bank.fit_lift`` does, with cosines in the place of distances."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(embeddings.shape[1], DIM, bias=False)
    nn.init.orthogonal_(head.weight, gain=sqrt(embeddings.shape[1] / DIM), generator=generator)
    log_temperature = nn.Parameter(torch.tensor(0.1).log())
    decayed: dict[str, Any] = {"params": head.parameters()}
    free: dict[str, Any] = {"params": [log_temperature], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([decayed, free], lr=3e-3)
    for _ in range(epochs):
        for batch in disjoint_batches(pairs, groups, 512, generator):
            x, y = (normalize(head(embeddings[rows]), dim=1) for rows in batch.T)
            logits, own = x @ y.T / log_temperature.exp().clamp(0.01, 1.0), torch.arange(len(batch))
            loss = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return head.requires_grad_(False)


def demonstrations(hierarchy: Hierarchy, size: Size, seed: int, folder: Path) -> tuple[dict[str, Tensor], Tensor]:
    """The concepts of the demonstrations that every method chooses, best first, (Q, k), and which queries are seen."""
    world, leaves, nodes = World(hierarchy, seed), hierarchy.leaves(), torch.arange(len(hierarchy))
    hidden = leaves[torch.randperm(len(leaves), generator=world.generator)[: round(UNSEEN * len(leaves))]]
    shown = nodes.repeat_interleave(size.images)
    bank, asked = world.images(shown), world.images(leaves)
    questions = world.questions(shown), world.questions(leaves)

    # rows: the bank's images, then the concepts
    rows = torch.cat([bank, world.texts(nodes)])
    own = torch.cat([len(shown) + shown, len(shown) + hierarchy.parents])
    usable = ~torch.isin(torch.cat([shown, nodes]), hidden) & (own != torch.arange(len(rows)))
    pairs = torch.stack([torch.arange(len(rows)), own], 1)[usable]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lift = HyperbolicLift(rows.shape[1], dim=DIM)
    report = fit_lift(lift, rows, pairs, LiftTraining(size.epochs, ENTAILMENT, seed=seed), groups=own)
    head = linear_head(rows, pairs, own, len(report.train_loss), seed)

    given = {"id": [str(i) for i in range(len(shown))], "text_embedding": questions[0]}
    plain = AnchorBank.build(folder / f"plain{seed}", {**given, "image_embedding": bank}, lift=lift)
    projected = AnchorBank.build(
        folder / f"linear{seed}", {**given, "image_embedding": head(bank), "point": head(bank)}
    )
    with torch.no_grad():
        queries = Queries(points=lift(asked), image_embeddings=asked, text_embeddings=questions[1])

    def chosen(bank: AnchorBank, queries: Queries, strategy: Strategy, weight: float = 0.0) -> Tensor:
        found = select(bank, queries, size.k, strategy, depth_weight=weight, order="nearest_first", seed=seed)
        return shown[found]

    methods = {"random": chosen(plain, queries, "random"), RICES: chosen(plain, queries, "rices")}
    methods["TopK-CLIP"] = chosen(plain, queries, "topk_clip")
    methods[LINEAR] = chosen(projected, Queries(image_embeddings=head(asked)), "rices")
    for weight in DEPTH_WEIGHTS:
        name = PLAIN + (f", depth {weight:+g}" if weight else "")
        methods[name] = chosen(plain, queries, "hyperbolic", weight)
    return methods, ~torch.isin(leaves, hidden)


def judge(hierarchy: Hierarchy, chosen: Tensor, images: int) -> Tensor:
    """The metrics of every query, (Q, len(METRICS)), for concepts of demonstrations (Q, k), best first."""
    leaves, family = hierarchy.leaves(), ancestors_at(hierarchy, FAMILY)
    levels = (torch.arange(len(hierarchy)), hierarchy.parents, family)
    shares = [(level[chosen] == level[leaves][:, None]).double().mean(1) for level in levels]
    # Wu and Palmer, 1994: depths counted from 1 at the root
    tree, depths = hierarchy.tree.double(), hierarchy.depths + 1
    similarity = 2 * (tree[leaves] @ tree.T) / (depths[leaves][:, None] + depths)
    gains, k = similarity.gather(1, chosen), chosen.shape[1]
    discount = 1 / torch.arange(2, k + 2).double().log2()
    ideal = similarity.repeat_interleave(images, 1).topk(k, 1).values
    ndcg = (gains * discount).sum(1) / (ideal * discount).sum(1)
    return torch.stack([*shares, gains.mean(1), ndcg], 1)


Scores = dict[str, list[Tensor]]
"""Of each method, for each seed, (Q, metrics)."""


def run(hierarchy: Hierarchy, size: Size, console: Console) -> dict[str, Scores]:
    """Return the scores of every ranking on every split."""
    total: dict[str, Scores] = {split: {} for split in SPLITS}
    with TemporaryDirectory() as folder:
        for seed in track(range(size.seeds), "seeds", console=console):
            methods, seen = demonstrations(hierarchy, size, seed, Path(folder))
            for name, chosen in methods.items():
                scores = judge(hierarchy, chosen, size.images)
                for split, rows in zip(SPLITS, (seen, ~seen)):
                    total[split].setdefault(name, []).append(scores[rows])
    return total


class Bootstrap:
    """Means over seeds and queries, resampled: seeds, then queries in each, the same ones for all methods."""

    def __init__(self, scores: Scores, resamples: int):
        self.samples: dict[str, list[Tensor]] = {name: [] for name in scores}
        self.means = {name: torch.stack([s.mean(0) for s in seeds]).mean(0) for name, seeds in scores.items()}
        generator = torch.Generator().manual_seed(0)
        count = len(next(iter(scores.values())))
        for _ in range(resamples):
            drawn = torch.randint(count, (count,), generator=generator).tolist()
            sizes = [len(next(iter(scores.values()))[s]) for s in drawn]
            rows = [torch.randint(n, (n,), generator=generator) for n in sizes]
            for name, seeds in scores.items():
                picked = [seeds[s][r].mean(0) for s, r in zip(drawn, rows)]
                self.samples[name].append(torch.stack(picked).mean(0))

    def mean(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return a ranking's means and their intervals."""
        return (self.means[name], *interval(torch.stack(self.samples[name])))

    def difference(self, a: str, b: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return the differences of two rankings and their intervals."""
        low, high = interval(torch.stack(self.samples[a]) - torch.stack(self.samples[b]))
        return self.means[a] - self.means[b], low, high


def interval(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Of 95 %, by percentiles."""
    low, high = torch.quantile(samples, torch.tensor([0.025, 0.975], dtype=samples.dtype), 0)
    return low, high


# --- what is told of it --------------------------------------------------------------------------------------------

Row = dict[str, object]


def rows_of(split: str, bootstrap: Bootstrap) -> Iterator[Row]:
    """Yield the rows of the CSV."""
    for name in bootstrap.means:
        for metric, *figures in zip(METRICS, *bootstrap.mean(name)):
            mean, low, high = (round(float(f), 4) for f in figures)
            yield {"queries": split, "method": name, "metric": metric, "mean": mean, "low": low, "high": high}


def averages(bootstraps: dict[str, Bootstrap]) -> Iterator[list[str]]:
    """Yield the rows of the table."""
    for split, bootstrap in bootstraps.items():
        for name in bootstrap.means:
            cells = zip(*bootstrap.mean(name))
            yield [split, name, *(f"{m:.3f} [{low:.3f}, {high:.3f}]" for m, low, high in cells)]


def differences(bootstraps: dict[str, Bootstrap]) -> Iterator[list[str]]:
    """Every hyperbolic method against the two that it would replace, and what the interval says."""
    for split, bootstrap in bootstraps.items():
        for name in (n for n in bootstrap.means if n.startswith(PLAIN)):
            for other in (RICES, LINEAR):
                told = []
                for mean, low, high in zip(*bootstrap.difference(name, other)):
                    word = "better" if low > 0 else "**worse**" if high < 0 else "undecided"
                    told.append(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}] {word}")
                yield [split, name, other, *told]


AVERAGES, DIFFERENCES = ("queries", "method", *METRICS), ("queries", "method", "minus", *METRICS)


def block(bootstraps: dict[str, Bootstrap], hierarchy: Hierarchy, size: Size, command: str) -> Iterator[str]:
    """Yield the lines of the block in evidence.md."""
    facts = {name: value for name, value in table.environment("").items() if name in ("hyperbolic", "torch")}
    yield f"Generated by `{command}` ({', '.join(f'{name} {value}' for name, value in facts.items())})."
    yield ""
    yield (
        f"A bank of {size.images} images of each of {len(hierarchy)} concepts, {len(hierarchy.leaves())} queries, "
        f"k = {size.k}, {size.seeds} seeds; 95 % intervals by bootstrap over seeds and queries."
    )
    yield ""
    yield from lines(AVERAGES, averages(bootstraps))
    yield from ("", "Differences, paired by query:", "")
    yield from lines(DIFFERENCES, differences(bootstraps))
    yield from ("", "![What each method chooses](ranking.png)")


def draw(bootstraps: dict[str, Bootstrap]) -> Figure:
    """Draw the rankings side by side."""
    shown: Sequence[str] = (LEVELS[0], LEVELS[2], "Wu-Palmer", "nDCG")
    figure = Figure(figsize=(14, 4.5), layout="constrained")
    names = list(bootstraps[SPLITS[0]].means)[::-1]
    for axis, metric in zip(figure.subplots(1, len(shown), sharey=True), shown):
        column = METRICS.index(metric)
        for split, filled, shift in zip(SPLITS, (True, False), (0.12, -0.12)):
            for height, name in enumerate(names):
                mean, low, high = (float(f[column]) for f in bootstraps[split].mean(name))
                color = COLORS["hyperbolic"] if name.startswith(PLAIN) else COLORS["matmul+acosh"]
                style = {"color": color, "markerfacecolor": color if filled else "white", "markersize": 5}
                axis.errorbar(mean, height + shift, xerr=[[mean - low], [high - mean]], fmt="o", capsize=2, **style)
        axis.set_yticks(range(len(names)), names)
        axis.set_title(metric)
        axis.grid(alpha=0.3)
    figure.suptitle("Demonstrations that each method chooses; filled: concepts seen in training, open: unseen")
    return figure


def main(
    data: Annotated[Path, typer.Argument(help="Node-link JSON of networkx, edges from general to specific.")] = WORDNET,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes; wants --out.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the results.", show_default="docs")] = None,
) -> None:
    """Choose demonstrations by every method and compare.

    Example: python bench/ranking.py --quick --out /tmp/ranking
    """
    if quick and not out:
        raise typer.BadParameter("--quick is not for docs; name a folder by --out")
    if not data.exists():
        raise typer.BadParameter(f"there is no hierarchy at {data}")
    out = out or DOCS
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    hierarchy, size, console = Hierarchy.read(data), QUICK if quick else FULL, Console(width=200)
    scores = run(hierarchy, size, console)
    bootstraps = {split: Bootstrap(scores[split], size.resamples) for split in SPLITS}
    evidence.write_rows(out / "ranking.csv", [row for split, b in bootstraps.items() for row in rows_of(split, b)])
    command = "python bench/ranking.py" + " --quick" * quick
    evidence.put(out / evidence.PAGE, "ranking", block(bootstraps, hierarchy, size, command))
    draw(bootstraps).savefig(out / "ranking.png", dpi=130)
    shown = Table(*AVERAGES, box=None)
    for row in averages(bootstraps):
        shown.add_row(*row, style="bold" if row[1].startswith(PLAIN) else "")
    console.print(shown)


if __name__ == "__main__":
    typer.run(main)
