"""Losses on what the model puts out: the answer's tokens, their distribution, and attention.

All are averages over valid positions, computed in float32 at least, and 0 where there is none.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

IGNORED = -100
"""The label of tokens that are no answer, as everywhere in transformers."""
CHUNK = 1 << 20
"""Logits whose distributions are in memory at a time."""


def answer_positions(labels: Tensor) -> Tensor:
    """Return where the next token is one of the answer, bool (B, T): the last prompt token is the first of them.

    ``labels`` (B, T) are the ids of the answer's tokens at their own places, as transformers wants them, and -100.

    >>> answer_positions(torch.tensor([[-100, -100, 7, 9]]))
    tensor([[False,  True,  True, False]])
    """
    return nn.functional.pad(labels[:, 1:] != IGNORED, (0, 1), value=False)


def answer_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of the answers' tokens, averaged over all of them in the batch; a scalar.

    ``logits`` (B, T, V) and ``labels`` (B, T) as in :func:`answer_positions`: those at t predict the label at t + 1.
    Only the rows that predict one are read and made float32, unlike in transformers, which converts all.

    >>> answer_cross_entropy(torch.zeros(1, 3, 4), torch.tensor([[-100, -100, 2]]))  # log 4
    tensor(1.3863)
    """
    if logits.dim() != 3 or labels.shape != logits.shape[:2]:
        got = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"answer_cross_entropy: logits and labels must be (B, T, V) and (B, T), got {got}")
    predicts = answer_positions(labels)
    answers = labels[:, 1:][predicts[:, :-1]]
    total = nn.functional.cross_entropy(_widen(_select_rows(logits, predicts)), answers, reduction="sum")
    return total / max(1, len(answers))


def logit_kl(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ``T^2 KL(teacher || student)`` of next-token distributions softened by a temperature T, averaged.

    ``student`` and ``teacher`` (..., V) are logits at the same positions, ``mask`` (...) is true at those that count:
    :func:`answer_positions`. The factor keeps gradients of one size for all T (Hinton et al., 2015). Tokens that the
    teacher rules out by logits of minus infinity count nothing. Distributions are held for a part of the rows at a
    time, and made again in the backward. No gradient to the teacher.

    >>> logit_kl(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), torch.tensor([True]))
    tensor(0.1109)
    """
    if student.shape != teacher.shape or mask.shape != student.shape[:-1]:
        got = f"{tuple(student.shape)}, {tuple(teacher.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"logit_kl: student, teacher and mask must be (..., V) twice and (...), got {got}")
    _check_mask("logit_kl", mask=mask)
    if not 0 < temperature < math.inf:
        raise ValueError(f"logit_kl: temperature must be positive and finite, got {temperature}")
    s, t = _select_rows(student, mask), _select_rows(teacher.detach(), mask)
    size = max(1, CHUNK // student.shape[-1])
    parts = [
        checkpoint(_sum_kl, a, b, temperature, use_reentrant=False, preserve_rng_state=False)
        for a, b in zip(s.split(size), t.split(size))
    ]
    total: Tensor = torch.stack(parts).sum()
    return temperature**2 * total / max(1, len(s))


def attention_kl(student: Tensor, teacher: Tensor, mask: Tensor, key_mask: Tensor) -> Tensor:
    """Return ``KL(teacher || student)`` of the attention over the query's keys, averaged over heads and valid tokens.

    ``student`` and ``teacher`` (B, H, S, K) are probabilities, what ``output_attentions`` returns, of the S query
    tokens on the K keys that both have; ``mask`` (B, S) and ``key_mask`` (B, K) are true at the valid ones. Both are
    divided by their sums over the valid keys, so what goes to demonstrations or virtual tokens is left out. A
    probability of the student that has become 0 where the teacher's has not counts as the smallest normal number. No
    gradient to the teacher.

    >>> mask = torch.tensor([[True]]), torch.tensor([[True, True, False]])
    >>> attention_kl(torch.tensor([[[[0.5, 0.5, 0.0]]]]), torch.tensor([[[[0.25, 0.25, 0.5]]]]), *mask)
    tensor(0.)
    """
    shape = tuple(student.shape)
    if len(shape) != 4 or teacher.shape != shape or mask.shape != (shape[0], shape[2]):
        got = f"{shape}, {tuple(teacher.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"attention_kl: student, teacher and mask must be (B, H, S, K) twice and (B, S), got {got}")
    if key_mask.shape != (shape[0], shape[3]):
        raise ValueError(f"attention_kl: key_mask must be {(shape[0], shape[3])}, got {tuple(key_mask.shape)}")
    _check_mask("attention_kl", mask=mask, key_mask=key_mask)
    outside = ~(mask[:, None, :, None] & key_mask[:, None, None, :])
    s, t = (_widen(a.masked_fill(outside, 0)) for a in (student, teacher.detach()))
    # The logarithms of a row's sum and not of each quotient, so that no row is divided by a sum of 0.
    tiny = torch.finfo(s.dtype).tiny
    log_s, log_t = (a.clamp(min=tiny).log() - a.sum(-1, keepdim=True).clamp(min=tiny).log() for a in (s, t))
    weight = t / t.sum(-1, keepdim=True).clamp(min=tiny)
    return (weight * (log_t - log_s)).sum() / (shape[1] * mask.sum().clamp(min=1))


def _sum_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_s, log_t = ((_widen(a) / temperature).log_softmax(-1) for a in (student, teacher))
    p, q = log_t.exp(), log_s.exp()
    # q - p sums to 0, and makes the gradient q - p itself: exactly 0 for equal logits.
    return ((p * (log_t - log_s)).masked_fill(p == 0, 0) + (q - p)).sum()


def _widen(a: Tensor) -> Tensor:
    return a.to(torch.promote_types(a.dtype, torch.float32))


def _select_rows(a: Tensor, mask: Tensor) -> Tensor:
    """Return the rows of ``a`` (..., V) where ``mask`` (...) is true, (N, V)."""
    return a.flatten(0, -2).index_select(0, mask.flatten().nonzero()[:, 0])


def _check_mask(function: str, **masks: Tensor) -> None:
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise TypeError(f"{function}: {name} must be bool, got {mask.dtype}")
