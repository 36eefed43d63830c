"""Tensors as recipes: a shape, a type, values that repeat, and how they lie in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

FLOATS = ("float32", "float64", "float16", "bfloat16")
FOREIGN = ("int64", "bool", "uint8", "complex64", "complex128", "float8_e4m3fn")
SPECIAL = (0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, 1e-310, 1e-30, 1e-8, 1.0, -1.0, 20.0, 1e4, 3e38, 1e300)
# Sizes whose products overflow. Nothing of the kind is allocated: such dimensions have a stride of 0.
HUGE = (2**40, 2**60, 2**62, 2**63 - 1)
_ALLOCATED = 1 << 20
# The most elements that operators take.
_TAKEN = 1 << 48

Recipe = Mapping[str, Any]


def _transposed(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT if x.dim() > 1 else x


def _strided(x: Tensor) -> Tensor:
    return torch.stack([x, torch.zeros_like(x)], -1).flatten(-2)[..., ::2] if x.dim() else x


def _offset(x: Tensor) -> Tensor:
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


def _negative(x: Tensor) -> Tensor:
    return torch._neg_view(-x)


def _imaginary(x: Tensor) -> Tensor:
    """The imaginary part of a conjugate, where negative bits come from in practice."""
    return torch.complex(torch.zeros_like(x), -x).conj().imag


def _expanded(x: Tensor) -> Tensor:
    return x[:1].expand(x.shape) if x.dim() else x


def _repeated(x: Tensor) -> Tensor:
    return x[..., :1].expand(x.shape) if x.dim() else x


def _overlapping(x: Tensor) -> Tensor:
    memory = torch.cat([x.flatten(), x.new_zeros(sum(x.shape) + 1)])
    return memory.as_strided(x.shape, [1] * x.dim())


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": _transposed,
    "strided": _strided,
    "offset": _offset,
    "negative": _negative,
    "imaginary": _imaginary,
    "expanded": _expanded,
    "repeated": _repeated,
    "overlapping": _overlapping,
    "parameter": lambda x: torch.nn.Parameter(x, requires_grad=False),
}


def values() -> st.SearchStrategy[list[float]]:
    """Few numbers, because they repeat; mostly such as points have."""
    plain = st.floats(-2, 2, width=16)
    number = plain | plain | plain | st.sampled_from(SPECIAL) | st.floats(width=32)
    return st.lists(plain, min_size=1, max_size=5) | st.lists(number, min_size=1, max_size=5)


@st.composite
def tensors(draw: st.DrawFn, shape: Sequence[int], dtypes: Sequence[str] = FLOATS, inside: bool = False) -> Recipe:
    """A recipe for a tensor of this shape; ``inside`` for points that mostly are to be in the unit ball."""
    recipe: dict[str, Any] = {"shape": list(shape), "dtype": draw(st.sampled_from(dtypes)), "values": draw(values())}
    if (layout := draw(st.sampled_from(tuple(LAYOUTS)))) != "contiguous":
        recipe["layout"] = layout
    if inside and draw(st.integers(0, 9)):
        recipe["inside"] = True
    return recipe


def build(recipe: Recipe) -> Tensor:
    """The tensor that a recipe describes."""
    shape, dtype = recipe["shape"], getattr(torch, recipe["dtype"])
    small = [1 if size > _ALLOCATED else size for size in shape]
    if math.prod(shape) >= 2**63:
        shape = small  # torch has no such tensor
    given = torch.tensor(recipe["values"], dtype=torch.float64)
    x = given[torch.arange(math.prod(small)) % len(given)].view(small)
    if recipe.get("inside") and shape:
        x = x / (1 + x.norm(dim=-1, keepdim=True))
    if not dtype.is_floating_point and not dtype.is_complex:
        x = x.nan_to_num(0, 9, -9).clamp(-9, 9)
    x = x.to(dtype)
    layout = recipe.get("layout", "contiguous")
    if layout == "imaginary" and dtype not in (torch.float32, torch.float64):
        layout = "negative"
    if dtype.is_floating_point and dtype.itemsize > 1:
        x = LAYOUTS[layout](x)
    elif dtype.is_complex:
        x = x.conj()
    return x.expand(shape) if small != list(shape) else x


def is_tensor(recipe: Any) -> bool:
    """Whether a recipe is that of a tensor."""
    return isinstance(recipe, Mapping) and "shape" in recipe


def is_huge(recipe: Any) -> bool:
    """Whether a tensor has a dimension that no memory holds."""
    return is_tensor(recipe) and max(recipe["shape"], default=0) > _ALLOCATED


def is_countable(recipe: Any) -> bool:
    """Whether a tensor is huge, but small enough that operators take it."""
    return is_huge(recipe) and math.prod(recipe["shape"]) <= _TAKEN


def writable(a: Tensor) -> Tensor:
    """The same without elements that share memory, which forward derivatives of torch do not take."""
    return a.contiguous() if torch._debug_has_internal_overlap(a) else a


def clone(a: Any) -> Any:
    """The same values where nothing is special about how they lie in memory."""
    return (
        a.detach().resolve_neg().resolve_conj().clone(memory_format=torch.contiguous_format)
        if isinstance(a, Tensor)
        else a
    )


@st.composite
def shapes(draw: st.DrawFn, cores: Sequence[Sequence[str]]) -> list[list[int]]:
    """Shapes with these trailing dimensions and batches that broadcast; now and then one that does not fit."""
    sizes = st.sampled_from((1, 2, 3, 4, 5, 8, 17, 33))
    rows = st.sampled_from((0, 1, 2, 3, 5, 20))
    bound = {name: draw(rows if name in "NM" else sizes) for name in dict.fromkeys(chain(*cores))}
    batch = draw(st.lists(st.sampled_from((1, 2, 3, 0, 7)), max_size=3))
    drawn = []
    for core in cores:
        own = [draw(st.sampled_from((size, size, size, 1))) for size in batch[draw(st.integers(0, len(batch))) :]]
        drawn.append(own + [bound[name] for name in core])
    if draw(st.integers(0, 7)) == 7:
        victim = draw(st.sampled_from(drawn))
        change = draw(st.sampled_from(("drop", "add", "resize", "huge")))
        if change == "add" or not victim:
            victim.insert(0, draw(st.sampled_from((0, 1, 2, *HUGE))))
        elif change == "drop":
            victim.pop(draw(st.integers(0, len(victim) - 1)))
        else:
            other = (0, 1, 2, 6) if change == "resize" else HUGE
            victim[draw(st.integers(0, len(victim) - 1))] = draw(st.sampled_from(other))
    return drawn
