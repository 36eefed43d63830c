"""Objectives: their weights, the tokens they are taken at, and the losses that their terms are."""

import pytest
import torch
from torch import Tensor

from icl.losses import (
    TERMS,
    AnchorLoss,
    ContrastiveLoss,
    ModelStates,
    Objective,
    ObjectiveLoss,
    QueryTokens,
    RelationalLoss,
    answer_cross_entropy,
    attention_kl,
    logit_kl,
)
from tests.icl.compared import normal


def test_window_of_a_query() -> None:
    """Rows of an answer of two tokens, of one, and of none; the second begins one place later in its prompt."""
    f, t = False, True
    batch = {
        "aligned": torch.tensor([[t, t, t, t], [t, t, t, f], [t, t, f, f]]),
        "predicts": torch.tensor([[f, t, t, f], [f, t, f, f], [f, t, f, f]]),
        "student": {"labels": torch.tensor([[-100, -100, 7, 8, -100], [-100, -100, -100, 9, -100], [-100] * 5])},
        "student_positions": torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0], [1, 2, 0, 0]]),
    }
    query = QueryTokens.from_batch(batch)
    assert query.window.tolist() == [[1, 2, 3]] * 3
    assert query.labels.tolist() == [[-100, 7, 8], [-100, 9, -100], [-100, -100, -100]]
    assert query.predicts.tolist() == [[t, t, f], [t, f, f], [t, f, f]]


def test_weights_are_zero_or_positive_and_some_are() -> None:
    with pytest.raises(ValueError, match="anchor must be a finite number of 0 or more or nothing, got -1"):
        Objective(anchor=-1)
    with pytest.raises(ValueError, match="at least one weight"):
        Objective(ce=0.0)


def model_states(seed: int) -> ModelStates:
    """Of two layers, two rows and three tokens, whose answers are predicted at two."""
    hidden = [normal(2, 3, 8, seed=seed + i) for i in range(2)]
    attention = [normal(2, 4, 3, 3, seed=seed + i).softmax(-1) for i in range(2)]
    return ModelStates(hidden, attention, normal(2, 3, 11, seed=seed))


def test_terms_are_the_losses_of_their_names() -> None:
    aligned = torch.tensor([[True, True, True], [True, True, False]])
    predicts = torch.tensor([[True, True, False], [True, False, False]])
    labels = torch.tensor([[-100, 4, 5], [-100, 6, -100]])
    query = QueryTokens(aligned, torch.zeros(2, 3).long(), predicts, labels)
    student, teacher = model_states(0), model_states(10)
    logits, others = student.logits, teacher.logits
    assert isinstance(logits, Tensor)
    assert isinstance(others, Tensor)
    objective = Objective(**dict.fromkeys(TERMS, 1.0), c=0.3, temperature=2.0)
    terms = ObjectiveLoss(objective, 8)(student, teacher, query)
    layers = zip(student.attention, teacher.attention)
    expected = {
        "ce": answer_cross_entropy(logits, labels),
        "anchor": AnchorLoss("geodesic", "unit", 0.3)(student.hidden, teacher.hidden, aligned),
        "alignment": AnchorLoss("l2", "raw")(student.hidden, teacher.hidden, aligned),
        "relational": RelationalLoss("geodesic", "unit", 0.3)(student.hidden, teacher.hidden, aligned),
        "contrastive": ContrastiveLoss("geodesic", "unit", 0.3)(student.hidden, teacher.hidden, aligned),
        "logits": logit_kl(logits, others, predicts, 2.0),
        "attention": torch.stack([attention_kl(s, t, aligned, aligned) for s, t in layers]).mean(),
    }
    assert terms.keys() == expected.keys() == set(TERMS)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=0, atol=0)
    assert ObjectiveLoss(objective, 8)(student, None, query).keys() == {"ce"}


def test_counts_are_of_the_tokens_that_a_term_is_taken_at() -> None:
    batch = {
        "aligned": torch.tensor([[True, True, True], [True, True, False]]),
        "predicts": torch.tensor([[True, True, False], [True, False, False]]),
        "student": {"labels": torch.tensor([[-100, 4, 5], [-100, -100, -100]])},
    }
    counts = ObjectiveLoss(Objective(ce=1.0, anchor=1.0, logits=1.0), 8).counts(batch)
    assert counts.tolist() == [2, 5, 3]
