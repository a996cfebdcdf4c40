"""Adam in coordinates in which the entries of a gradient are least correlated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class SOAP(Optimizer):
    r"""Adam in the eigenbases of the covariances of gradients (Vyas et al. 2024, arXiv 2409.11321, algorithm 3).

    .. math:: L \leftarrow \gamma L + (1 - \gamma) \, G G^T, \quad R \leftarrow \gamma R + (1 - \gamma) \, G^T G, \quad
              W \leftarrow W - \eta \, Q_L \, \mathrm{Adam}(Q_L^T G Q_R) \, Q_R^T

    for each matrix W of a model, with the eigenvectors Q of L and R, which one step of orthogonal iteration follows
    every few steps. A side of more than ``longest`` is not turned, nor is what is no matrix: there it is Adam. The
    weights decay apart from that, as in AdamW.

    Matrices of one shape are taken together. Packages take them one by one, which for the hundreds of small ones in the
    models here lasts longer than the gradients do.

    Args:
        params: groups of one tensor each, with the shapes of the parameters that lie in it side by side, as from
            :meth:`utils.flat_parameters.FlatParameters.groups`.
        lr: :math:`\eta`.
        betas: decays per step of Adam's averages, of gradients and of their squares.
        eps: added to the roots of the squares.
        weight_decay: of the weights per step, times ``lr``.
        gamma: :math:`\gamma`.
        every: steps from one change of the bases to the next.
        longest: side of a matrix that has a basis.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        gamma: float = 0.95,
        every: int = 10,
        longest: int = 64,
    ) -> None:
        adam = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**adam, "gamma": gamma, "every": every, "longest": longest})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change the weights by their gradients.

        Args:
            closure: finds the gradients anew, and returns the loss; None where they are there.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            (whole,) = group["params"]
            state, direction, shapes = self.state[whole], torch.empty_like(whole), tuple(group["shapes"])
            state["step"] = state.get("step", 0) + 1
            sizes = [prod(shape) for shape in shapes]
            gradients, directions = whole.grad.split(sizes), direction.split(sizes)
            for shape, members in _alike(shapes, group["longest"]).items():
                gradient = torch.cat([gradients[i] for i in members]).view(-1, *shape)
                found = _adam(state, gradient, group).flatten()
                torch._foreach_copy_([directions[i] for i in members], found.split([sizes[i] for i in members]))
            whole.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
        return loss


@cache
def _alike(shapes: tuple[tuple[int, ...], ...], longest: int) -> dict[tuple[int, ...], list[int]]:
    """Where the matrices of each shape are that have a basis, and, under (), all else."""
    found: dict[tuple[int, ...], list[int]] = {}
    for i, shape in enumerate(shapes):
        has_basis = len(shape) == 2 and 1 < min(shape) <= longest
        found.setdefault(shape if has_basis else (), []).append(i)
    return found


def _adam(state: dict[str, Any], gradient: Tensor, options: dict[str, Any]) -> Tensor:
    """Where Adam goes: matrices of one shape, ``[matrices, m, n]``, in their bases, or numbers, ``[numbers]``."""
    (beta1, beta2), step = options["betas"], state["step"]
    bases = _bases(state, gradient, options)
    mean, square = (_kept(state, name, gradient, gradient) for name in ("exp_avg", "exp_avg_sq"))
    mean.lerp_(gradient, 1 - beta1)
    turned = _turn(gradient, bases)
    square.mul_(beta2).addcmul_(turned, turned, value=1 - beta2)
    scale = (square / (1 - beta2**step)).sqrt_().add_(options["eps"])
    return _turn(_turn(mean, bases).div(1 - beta1**step).div_(scale), {axis: Q.mT for axis, Q in bases.items()})


def _bases(state: dict[str, Any], gradient: Tensor, options: dict[str, Any]) -> dict[int, Tensor]:
    """The orthonormal basis of each axis of the matrices that has one."""
    if gradient.dim() == 1:
        return {}
    bases = {}
    for axis, name in ((-2, "left"), (-1, "right")):
        if gradient.shape[axis] > options["longest"]:
            continue
        rows = gradient if axis == -1 else gradient.mT
        products = rows.mT @ rows
        covariance, basis = (_kept(state, f"{name} {what}", gradient, products) for what in ("covariance", "basis"))
        covariance.lerp_(products, 1 - options["gamma"])
        if state["step"] == 1:
            finite = torch.nan_to_num(covariance.double())  # what is not is for the training to report
            basis.copy_(torch.linalg.eigh(finite).eigenvectors.flip(-1))  # of the largest value first
        elif state["step"] % options["every"] == 0:
            basis.copy_(torch.linalg.qr(covariance @ basis).Q)
        bases[axis] = basis
    return bases


def _turn(matrices: Tensor, bases: dict[int, Tensor]) -> Tensor:
    """The matrices in coordinates of these bases."""
    for axis, basis in bases.items():
        matrices = matrices @ basis if axis == -1 else basis.mT @ matrices
    return matrices


def _kept(state: dict[str, Any], name: str, gradient: Tensor, like: Tensor) -> Tensor:
    """What is remembered by this name of parameters with this gradient; at first zeros, of the shape of ``like``."""
    name = " ".join([name, "x".join(map(str, gradient.shape[1:]))]).rstrip()
    if name not in state:
        state[name] = torch.zeros_like(like)
    return state[name]
