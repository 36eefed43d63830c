"""Checks at the public boundary.

Shapes, types, devices and Python numbers are checked on every call. Values are not, because that would read the
data back from the device; :func:`checks` turns it on where a NaN or a point outside the ball is being hunted.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hyperbolic.reference import wide

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Elements of a tensor. More fit no memory, but a view may have them, and would be gone through for years. As in
# csrc/cpu/tensors.h.
_MOST = 1 << 48
POSITIVE = ("c", "temperature")
"""Arguments that must be positive and finite. Numbers are checked on every call, tensors as all values are; where an
element is not, results are NaN."""


class _State(threading.local):
    checking = False


_state = _State()


@contextmanager
def checks() -> Iterator[None]:
    """Context in which every function of this package also validates the values that it is given.

    Raises ``ValueError`` naming the function, the argument and its first bad row: a NaN or an infinity, a point
    outside the ball, ambient coordinates off the hyperboloid or off the tangent space, a curvature that is not
    positive; and ambient coordinates where space components are wanted, if there are rows enough to tell. Reads the
    data back, so it synchronises with a GPU. Works in compiled programs too.

    >>> import torch, hyperbolic
    >>> from hyperbolic import poincare
    >>> with hyperbolic.checks():
    ...     poincare.dist0(torch.tensor([[0.5, 0.0], [0.8, 0.8]]))
    Traceback (most recent call last):
    ...
    ValueError: poincare.dist0: x[1] is outside the ball: got c|x|^2 = 1.28000004, wanted less than 1
    """
    before, _state.checking = _state.checking, True
    try:
        yield
    finally:
        _state.checking = before


def checking() -> bool:
    """Return whether values are checked, within :func:`checks`."""
    return _state.checking


def arguments(
    title: str, names: Sequence[str], ranks: Sequence[tuple[str, ...]], args: Sequence[float | Tensor]
) -> list[Tensor]:
    """``args`` as tensors on one device, after all checks that need no data.

    ``ranks`` names the trailing dimensions of each argument, () for a scalar, which may be a Python number. "D+1" is a
    dimension one larger than "D".
    """
    first = next((a for a, r in zip(args, ranks) if r and isinstance(a, Tensor)), None)
    bound: dict[str, tuple[int, str]] = {}
    tensors = []
    for name, dims, a in zip(names, ranks, args):
        if not isinstance(a, Tensor):
            if dims or isinstance(a, bool) or not isinstance(a, (int, float)):
                kind = "a floating point tensor" if dims else "a number or a floating point tensor"
                raise TypeError(f"{title}: {name} must be {kind}, got {type(a).__name__}")
            if name in POSITIVE and not 0 < a <= sys.float_info.max:
                raise ValueError(f"{title}: {name} must be positive and finite, got {a}")
            if isinstance(a, int) and not abs(a) <= sys.float_info.max:
                raise ValueError(f"{title}: {name} must be a number that float64 can hold, got {a}")
            tensors.append(
                torch.full((), float(a), dtype=torch.float64, device=None if first is None else first.device)
            )
            continue
        if a.dtype not in DTYPES:
            wanted = "float16, bfloat16, float32 or float64"
            raise TypeError(f"{title}: {name} must be a tensor of {wanted}, got {str(a.dtype).removeprefix('torch.')}")
        if a.layout is not torch.strided:
            raise TypeError(f"{title}: {name} must be a dense tensor, got {a.layout}")
        if math.prod(a.shape) > _MOST:
            raise ValueError(f"{title}: {name} must have at most 2^48 elements, got shape {tuple(a.shape)}")
        if a.dim() < len(dims):
            raise ValueError(
                f"{title}: {name} must have shape (..., {', '.join(dims)}), got a tensor of shape {tuple(a.shape)}"
            )
        if first is not None and a.device != first.device:
            raise ValueError(f"{title}: {name} must be on {first.device} as the other arguments are, got {a.device}")
        for dim, size in zip(dims, a.shape[a.dim() - len(dims) :]):
            more = dim.count("+1")
            if size <= more and dim not in ("N", "M"):
                least = "two elements" if more else "one element"
                raise ValueError(f"{title}: {name} must have at least {least} along {dim}, got {tuple(a.shape)}")
            wanted_size, owner = bound.setdefault(dim.removesuffix("+1"), (size - more, name))
            if size - more != wanted_size:
                ambient = "; points and tangents are space components, see lorentz.from_ambient"
                raise ValueError(
                    f"{title}: {name} must have size {wanted_size + more} along {dim} as {owner} has, "
                    f"got {size} (shape {tuple(a.shape)})"
                    + (ambient if title.startswith("lorentz.") and abs(size - more - wanted_size) == 1 else "")
                )
        tensors.append(a)
    _broadcast(title, names, ranks, tensors)
    return tensors


def _broadcast(title: str, names: Sequence[str], ranks: Sequence[tuple[str, ...]], args: Sequence[Tensor]) -> None:
    shape: tuple[int, ...] = ()
    for name, dims, a in zip(names, ranks, args):
        batch = tuple(a.shape[: a.dim() - len(dims)])
        for i in range(1, min(len(shape), len(batch)) + 1):
            if shape[-i] != batch[-i] and shape[-i] != 1 and batch[-i] != 1:
                raise ValueError(
                    f"{title}: {name} must have a batch shape that broadcasts with {shape}, "
                    f"got {batch} (shape {tuple(a.shape)})"
                )
        if batch:
            shape = tuple(torch.broadcast_shapes(shape, batch))
    if math.prod(shape) > _MOST:
        raise ValueError(f"{title}: arguments must broadcast to at most 2^48 rows, got {shape}")


def matrices(
    title: str, names: Sequence[str], ranks: Sequence[tuple[str, ...]], args: Sequence[float | Tensor]
) -> list[Tensor]:
    """``arguments`` of a function without a batch: matrices are matrices, and scalars have one element."""
    tensors = arguments(title, names, ranks, args)
    for name, dims, a in zip(names, ranks, tensors):
        if dims and a.dim() != len(dims):
            raise ValueError(f"{title}: {name} must have shape ({', '.join(dims)}), got {tuple(a.shape)}")
        if not dims and a.numel() != 1:
            raise ValueError(f"{title}: {name} must be one number, got shape {tuple(a.shape)}")
    return tensors


def positive_or_nan(a: Tensor) -> Tensor:
    """``a`` with NaN, and so all that comes of it, for each element that is not positive and finite."""
    return torch.where((a > 0) & (a < math.inf), a, math.nan)


def equal_weights(title: str, x: Tensor) -> Tensor:
    """A weight of 1 for each point of ``x`` (..., K, D), once that is known to be its shape."""
    (x,) = arguments(title, ("x",), (("K", "D"),), (x,))
    return x.new_ones(x.shape[-2])


def values(
    title: str,
    names: Sequence[str],
    ranks: Sequence[tuple[str, ...]],
    inside: Sequence[str],
    space: Sequence[str],
    args: Sequence[Tensor],
) -> None:
    """Raise ``ValueError`` for the first value that :func:`checks` is to find.

    All arguments must be finite, those of ``POSITIVE`` positive, those named in ``inside`` within the ball, and those
    in ``space`` no ambient coordinates.
    """
    given = dict(zip(names, args))
    rank = {name: len(dims) for name, dims in zip(names, ranks)}
    for name, a in given.items():
        rows = a.isfinite().all(-1) if rank[name] else a.isfinite()
        report(title, name, rows, partial(_not_finite, a))
        if name in POSITIVE:
            report(title, name, a > 0, partial(_not_positive, a))
    for name in inside:
        x, c = given[name].to(torch.float64), given["c"].to(torch.float64)[..., None]
        # A set of points, (..., N, D), has one curvature.
        alpha = wide.rim(x, c[..., None] if rank[name] == 2 else c)[..., 0]
        report(title, name, alpha.hi > 0, partial(_outside, 1.0 - alpha.hi))
    for name in space:
        x, c = given[name], given["c"].to(torch.float64)
        if _looks_ambient(x, c[..., None] if rank[name] == 2 else c):
            raise ValueError(
                f"{title}: {name} seems to be ambient, its first coordinate the time component of the others in every "
                f"row: wanted space components, as lorentz.from_ambient returns"
            )


# So many different rows are no points on a hyperboloid within their space by chance.
_AMBIENT_ROWS = {torch.float16: 16, torch.bfloat16: 16, torch.float32: 3, torch.float64: 3}


def _looks_ambient(x: Tensor, c: Tensor) -> bool:
    tail = x[..., 1:].to(torch.float64)
    time = (tail.square().sum(-1) + 1 / c).sqrt()
    if x.shape[-1] < 2 or not bool(((x[..., 0] - time).abs() <= 8 * torch.finfo(x.dtype).eps * time).all()):
        return False
    rows = tail.reshape(-1, tail.shape[-1])
    return len(rows[rows.any(-1)].unique(dim=0)) >= _AMBIENT_ROWS[x.dtype]


def _not_finite(a: Tensor, index: Any) -> str:
    return f"is not finite: got {a[index].tolist()}"


def _not_positive(a: Tensor, index: Any) -> str:
    return f"is not positive: got {a[index].item()}"


def _outside(square: Tensor, index: Any) -> str:
    return f"is outside the ball: got c|x|^2 = {square[index].item():.9g}, wanted less than 1"


def report(title: str, name: str, good: Tensor, problem: Callable[[Any], str]) -> None:
    """Raises for the first row, in reading order, where ``good`` is False."""
    if bool(good.all()):
        return
    index = tuple(int(i) for i in (~good).nonzero()[0])
    where = f"[{', '.join(map(str, index))}]" if index else ""
    raise ValueError(f"{title}: {name}{where} {problem(index)}")


def ambient(title: str, p: Tensor, v: Tensor | None, c: Tensor) -> None:
    """The checks of :func:`checks` for ambient coordinates, up to what rounding them to their type explains."""
    eps = torch.finfo(p.dtype).eps
    if v is not None:
        eps = max(eps, torch.finfo(v.dtype).eps)
    slack = 8 * eps
    p, c = p.to(torch.float64), c.to(torch.float64)
    report(title, "p", p.isfinite().all(-1), partial(_not_finite, p))
    form = c * (p[..., 1:].square().sum(-1) - p[..., 0].square())
    on = ((form + 1).abs() <= slack * (1 + c * p.square().sum(-1))) & (p[..., 0] > 0)
    report(
        title, "p", on, lambda i: f"is off the hyperboloid: got c<p,p>_L = {form[i].item():.9g}, wanted -1 and p0 > 0"
    )
    if v is None:
        return
    w = v.to(torch.float64)
    report(title, "v", w.isfinite().all(-1), partial(_not_finite, w))
    product = (p[..., 1:] * w[..., 1:]).sum(-1) - p[..., 0] * w[..., 0]
    # What a projection leaves is the rounding of its terms, which are longer than the tangent where they cancel: up to
    # the unit of length, 1/sqrt(c), for tangents that are short themselves.
    longest = torch.linalg.vector_norm(w, dim=-1) + 1 / c.sqrt()
    report(
        title,
        "v",
        product.abs() <= slack * torch.linalg.vector_norm(p, dim=-1) * longest,
        lambda i: f"is off the tangent space at p: got <p,v>_L = {product[i].item():.9g}, wanted 0",
    )
