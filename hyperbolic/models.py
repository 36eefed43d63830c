"""Isometries between the Lorentz hyperboloid, the Poincaré ball and the Klein ball, all of curvature ``-c``.

Points are (..., D) in each model. Types, broadcasting, curvature and the errors raised are those of
:mod:`hyperbolic.lorentz`. Displacement at most ``4 eps (1 + sinh r_out)``, which is what the coordinates of the
target can hold: near the rim those of the balls hold less than the hyperboloid's, and those of the Klein ball
only half as much radius as the Poincaré ball's. Results in a ball are strictly inside, and arguments that are not
give NaN as in :mod:`hyperbolic.poincare`. All maps are smooth everywhere.
"""

from __future__ import annotations

from torch import Tensor

from hyperbolic.ops.dispatch import Scalar, operator
from hyperbolic.reference import models as formulas


@operator(formulas.lorentz_to_poincare, "x:D, c:1 -> D", point="ball", space=("x",))
def lorentz_to_poincare(x: Tensor, c: Scalar = 1.0) -> Tensor:
    """``x/(1 + sqrt(c) x0)``.

    >>> import torch
    >>> lorentz_to_poincare(torch.tensor([3.0, 4.0]))
    tensor([0.4919, 0.6558])
    """
    return lorentz_to_poincare.op(x, c)


@operator(formulas.poincare_to_lorentz, "x:D, c:1 -> D", point="lorentz", inside=("x",))
def poincare_to_lorentz(x: Tensor, c: Scalar = 1.0) -> Tensor:
    """``2 x/(1 - c|x|^2)``.

    >>> import torch
    >>> poincare_to_lorentz(torch.tensor([0.3, 0.4]))
    tensor([0.8000, 1.0667])
    """
    return poincare_to_lorentz.op(x, c)


@operator(formulas.lorentz_to_klein, "x:D, c:1 -> D", point="ball", space=("x",))
def lorentz_to_klein(x: Tensor, c: Scalar = 1.0) -> Tensor:
    """``x/(sqrt(c) x0)``.

    >>> import torch
    >>> lorentz_to_klein(torch.tensor([3.0, 4.0]))
    tensor([0.5883, 0.7845])
    """
    return lorentz_to_klein.op(x, c)


@operator(formulas.klein_to_lorentz, "x:D, c:1 -> D", point="lorentz", inside=("x",))
def klein_to_lorentz(x: Tensor, c: Scalar = 1.0) -> Tensor:
    """``x/sqrt(1 - c|x|^2)``.

    >>> import torch
    >>> klein_to_lorentz(torch.tensor([0.3, 0.4]))
    tensor([0.3464, 0.4619])
    """
    return klein_to_lorentz.op(x, c)


@operator(formulas.poincare_to_klein, "x:D, c:1 -> D", point="ball", inside=("x",))
def poincare_to_klein(x: Tensor, c: Scalar = 1.0) -> Tensor:
    """``2 x/(1 + c|x|^2)``.

    >>> import torch
    >>> poincare_to_klein(torch.tensor([0.3, 0.4]))
    tensor([0.4800, 0.6400])
    """
    return poincare_to_klein.op(x, c)


@operator(formulas.klein_to_poincare, "x:D, c:1 -> D", point="ball", inside=("x",))
def klein_to_poincare(x: Tensor, c: Scalar = 1.0) -> Tensor:
    """``x/(1 + sqrt(1 - c|x|^2))``.

    >>> import torch
    >>> klein_to_poincare(torch.tensor([0.48, 0.64]))
    tensor([0.3000, 0.4000])
    """
    return klein_to_poincare.op(x, c)
