"""How the testbed's model learns to learn in context: three phases, resumable, the same weights for the same seed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Idefics2ForConditionalGeneration

from icl.common.files import replacing
from icl.testbed.episodes import EpisodeBatch, EpisodeLayout, EpisodeSampler
from icl.testbed.images import augment, load_digits
from icl.testbed.model import build_model, compute_logits, encode_images
from icl.testbed.vocabulary import STYLES, build_processor

_POOL = 384
_CHECKPOINT_EVERY = 100
# The running accuracy is a mean over about as many steps.
_MEMORY = 20


@dataclass(frozen=True)
class PretrainingPhase:
    """A part of the training.

    Args:
        name: for people.
        steps: at most, if there is an accuracy to reach.
        lr: the learning rate.
        warm_up: steps over which it rises.
        decay: the share of the steps, the last, over which it falls to 0.
        until: stops when the running accuracy, between 0 and 1, is above.
        chat: two thirds of the steps are written as chats; else pairs are bare and an image is one token.
        fewest_classes: of an episode.
        digit_names: the share of maps whose labels name digits.
    """

    name: str
    steps: int
    lr: float
    warm_up: int = 0
    decay: float = 0.0
    until: float = 1.0
    chat: bool = True
    fewest_classes: int = 2
    digit_names: float = 0.0


PHASES = (
    # From the start, chats or several tokens an image kept the model from ever learning to look back; later it is easy.
    PretrainingPhase("induction", 3000, 3e-3, warm_up=200, until=0.9, chat=False, fewest_classes=6),
    PretrainingPhase("chat", 1600, 2e-3, decay=0.3),
    # Without, the names of digits could not stand for anything but themselves.
    PretrainingPhase("digit names", 600, 1e-3, decay=0.5, digit_names=0.5),
)


@dataclass
class PretrainingState:
    """Where training stands: the phase, its steps and those of all phases, running figures, and the time taken.

    ``accuracy`` is on labels of maps whose class was shown before.
    """

    style: str
    seed: int
    phase: int = 0
    step: int = 0
    total: int = 0
    accuracy: float = 0.0
    loss: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class NoBreakthroughError(RuntimeError):
    """The first phase ended without in-context learning."""


class Pretraining:
    """A training of the model; ``folder`` holds its checkpoint, from which one that was cut short goes on."""

    def __init__(self, style: str, seed: int, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.phases = PHASES
        self.state, self.file = PretrainingState(style, seed), folder / "checkpoint.safetensors"
        self.processor = build_processor(STYLES[style])
        self.model = build_model(STYLES[style], seed)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        if self.file.exists():
            self._resume()

    def run(self, report: Callable[[PretrainingState], None]) -> Idefics2ForConditionalGeneration:
        """Train to the end, and return the model. ``report`` is called after every step.

        ``NoBreakthroughError`` if the accuracy that a phase is for is not reached.
        """
        # Sums depend on how many threads share them, and tensors of this size gain nothing from a second one.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            while self.state.phase < len(self.phases):
                self._run_phase(self.phases[self.state.phase], report)
                self.state.phase, self.state.step = self.state.phase + 1, 0
        finally:
            torch.set_num_threads(threads)
        self.model.eval()
        return self.model

    def _run_phase(self, phase: PretrainingPhase, report: Callable[[PretrainingState], None]) -> None:
        state, image = self.state, self.model.config.image_token_id
        bare = EpisodeLayout.bare([image]), EpisodeLayout.bare([0])
        if phase.chat:
            several = EpisodeLayout.bare([image] * STYLES[state.style].image_tokens), bare[1]
            chat = EpisodeLayout.chat(self.processor, "image"), EpisodeLayout.chat(self.processor, "text")
        self.model.train()
        while state.step < phase.steps and state.accuracy <= phase.until:
            wall, cpu = time.perf_counter(), time.process_time()
            self._step(phase, bare if not phase.chat else chat if state.step % 3 else several)
            state.step, state.total = state.step + 1, state.total + 1
            state.seconds += time.perf_counter() - wall
            state.cpu_seconds += time.process_time() - cpu
            if state.step % _CHECKPOINT_EVERY == 0:
                self._save()
            report(state)
        if phase.until < 1 and state.accuracy <= phase.until:
            raise NoBreakthroughError(
                f"after {state.step} steps of phase {phase.name!r} accuracy is {state.accuracy:.2f}, not "
                f"{phase.until}: try a seed other than {state.seed}"
            )

    def _step(self, phase: PretrainingPhase, layouts: tuple[EpisodeLayout, EpisodeLayout]) -> None:
        state, images = self.state, load_digits("train")
        # Data depend on the seed and the step alone, so there is no state of theirs to keep.
        generator = torch.Generator().manual_seed((state.seed << 32) + state.total)
        pool = torch.randperm(len(images), generator=generator)[:_POOL].sort().values
        sampler = EpisodeSampler(self.processor, images.labels[pool])
        batch = sampler.batch(*layouts, phase.fewest_classes, phase.digit_names, generator)
        features = encode_images(self.model, augment(images.pixels[pool], generator))[:, : len(layouts[0].key)]
        logits = compute_logits(self.model, batch.input_ids, features[batch.images].flatten(0, 1))
        loss, accuracy = objective(logits, batch)

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(phase, state.step)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        state.loss += (loss.item() - state.loss) / _MEMORY
        state.accuracy += (accuracy.item() - state.accuracy) / _MEMORY

    def _save(self) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in moments.items()}
        with replacing(self.file) as draft:
            save_file(tensors, draft, metadata={"state": json.dumps(asdict(self.state))})

    def _resume(self) -> None:
        with safe_open(self.file, "pt") as checkpoint:
            state = PretrainingState(**json.loads(checkpoint.metadata()["state"]))
        if (state.style, state.seed) != (self.state.style, self.state.seed):
            raise ValueError(
                f"{self.file} is of style {state.style!r} and seed {state.seed}: finish or remove that run first"
            )
        self.state = state
        model: dict[str, Tensor] = {}
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in load_file(self.file).items():
            kind, _, name = key.partition(".")
            if kind == "model":
                model[name] = value
            else:
                i, _, moment = name.partition(".")
                moments.setdefault(int(i), {})[moment] = value
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})


def learning_rate(phase: PretrainingPhase, step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    rising = (step + 1) / phase.warm_up if phase.warm_up else 1.0
    falling = (phase.steps - step) / (phase.decay * phase.steps) if phase.decay else 1.0
    return phase.lr * min(1.0, rising, falling)


def objective(logits: Tensor, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
    """Return the weighted cross-entropy of logits (E, T, vocabulary), and the accuracy on the judged labels."""
    counted = batch.weights[:, 1:] > 0
    scores, targets = logits[:, :-1][counted], batch.input_ids[:, 1:][counted]
    weights, judged = batch.weights[:, 1:][counted], batch.judged[:, 1:][counted]
    losses = cross_entropy(scores, targets, reduction="none")
    right = scores.detach().argmax(-1) == targets
    return (losses * weights).sum() / weights.sum(), right[judged].float().mean()
