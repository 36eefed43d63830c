"""A learning rate for a base and a method that nobody has tried together, chosen by short trainings."""

from __future__ import annotations

import math
from collections.abc import Callable

FIRST_RATES = (5e-3, 1.6e-2, 5e-2)
"""The papers' rate and two above: virtual demonstrations take more the larger a base's states are."""
_LOWER_RATES, _HIGHER_RATES = (1.6e-3, 5e-4, 1.6e-4), (1.6e-1, 5e-1)
# Of what the best rate gains in a short training: the lowest that gains as much leaves room for a long one.
_SHARE = 0.9


def count_trial_steps(steps: int) -> int:
    """Return how many steps a trial has: a twentieth of the training's, and no fewer than 20 unless these are all."""
    return min(steps, max(20, steps // 20))


def search(loss_after: Callable[[float], float], untrained: float) -> tuple[float, dict[float, float]]:
    """Return a learning rate, and the losses of all that were tried, infinite where they are no number.

    ``loss_after`` trains briefly at a rate, from the same start, and returns the loss. The lowest rate is taken that
    lowers the ``untrained`` loss by nine tenths of what the best does; where none lowers it, the one that does least
    harm.

    >>> losses = {5e-4: 2.4, 1.6e-3: 2.1, 5e-3: 1.8, 1.6e-2: 0.3, 5e-2: 0.1, 1.6e-1: 0.05, 5e-1: 9.0}
    >>> search(losses.__getitem__, untrained=2.5)
    (0.05, {0.005: 1.8, 0.016: 0.3, 0.05: 0.1, 0.16: 0.05, 0.5: 9.0})
    """

    def finite_loss(rate: float) -> float:
        loss = loss_after(rate)
        return loss if math.isfinite(loss) else math.inf

    losses = {rate: finite_loss(rate) for rate in FIRST_RATES}
    best = min(losses, key=losses.__getitem__)
    for rate in {FIRST_RATES[0]: _LOWER_RATES, FIRST_RATES[-1]: _HIGHER_RATES}.get(best, ()):
        losses[rate] = finite_loss(rate)
        if losses[rate] >= losses[best]:
            break
        best = rate
    gain = untrained - losses[best]
    enough = [rate for rate in losses if gain > 0 and untrained - losses[rate] >= _SHARE * gain]
    return min(enough, default=best), losses
