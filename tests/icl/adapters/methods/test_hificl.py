"""HiFICL at its starts, and its size; its formula is held in tests/icl/attention/test_primitives.py."""

import pytest

from icl.adapters import HiFICLConfig, attach
from tests.icl import zoo
from tests.icl.adapted import ROUNDING, assert_identity_at_start, close, count_published, run


@pytest.mark.parametrize("name", zoo.FAMILIES)
def test_a_gate_of_zero_is_the_identity_to_the_bit(name: str) -> None:
    assert_identity_at_start(name, ("hificl identity",))


@pytest.mark.parametrize("name", zoo.FAMILIES)
def test_virtual_keys_take_mass_unless_they_are_added(name: str) -> None:
    """Added ones are the identity but for rounding; those of the paper are none, although their values are zero."""
    model, x = zoo.make(name), zoo.inputs(name)
    valid = x["attention_mask"].bool()
    before = run(model, x)[valid]
    adapters = attach(model, HiFICLConfig(mass="added"))
    close(run(model, x)[valid], before, ROUNDING, "added")
    with adapters.off(), adapters.record(heads=True) as stock:
        run(model, x)
    adapters.detach()
    with attach(model, HiFICLConfig()).record(heads=True) as paper:
        run(model, x)
    # Under keys like these no token leaves less than a tenth to eight that score nothing.
    shares = paper.heads[0][valid] / stock.heads[0][valid]
    assert shares.min() > 0
    assert shares.max() < 1
    assert (paper.heads[0] - stock.heads[0])[valid].abs().max() > 1e-2


def test_parameters_are_as_many_as_published() -> None:
    assert count_published(HiFICLConfig()) == 2_228_224
