"""How polarisability tensors lie in their molecules, as far as that is known.

QM9's tensors, which the package ``qm9pack`` has, are in the orientation of the calculations, not in that of the
positions. Its axes are those of the molecule's nuclear charges, the longest first: what a mirror or a half turn makes
zero in 4,304 molecules that have one is zero so in all but 3. Which way each axis points is not in the files.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from experiments.qm9.molecules import Molecules

# Proper turns by 0 or 180 degrees about the axes, as what they do to the signs of the components of vectors.
HALF_TURNS = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
LEAST_GAP = 0.01  # between the spreads along two axes, of the largest: closer ones tell no axes
ROUNDING = 0.02  # a0^3; what symmetry makes zero, and isotropic parts, are known to less


def charge_axes(molecules: Molecules) -> tuple[np.ndarray, np.ndarray]:
    r"""The principal axes of the nuclear charges, about their centre, and the spread along each, the largest first.

    .. math:: \sum_i Z_i (x_i - c)(x_i - c)^T / \sum_i Z_i, \qquad c = \sum_i Z_i x_i / \sum_i Z_i

    Args:
        molecules: any.

    Returns:
        spreads in Å^2, ``[molecules, 3]``, and the axes as columns of ``[molecules, 3, 3]``, each up to its sign.
    """
    first, charges, x = molecules.first_atom[:-1], molecules.numbers[:, None].astype(float), molecules.positions
    total = np.add.reduceat(charges, first)
    x = x - np.repeat(np.add.reduceat(charges * x, first) / total, molecules.num_atoms, axis=0)
    spreads, axes = np.linalg.eigh(
        np.add.reduceat(charges[:, None] * x[:, :, None] * x[:, None], first) / total[..., None]
    )
    return spreads[:, ::-1], axes[:, :, ::-1]


def possible_tensors(molecules: Molecules) -> np.ndarray:
    r"""The tensors that a molecule may have, in the orientation of its positions: one for each turn S.

    .. math:: V S T S V^T, \qquad S \in \{1, C_2^x, C_2^y, C_2^z\}

    with the tensor T along the axes V of :func:`charge_axes`, whose directions are not known. The trace, the anisotropy
    and the elements along the axes are the same of all four.

    Args:
        molecules: whose target ``polarizability``, where they have it, is T.

    Returns:
        a0^3, ``[molecules, 4, 3, 3]``; NaN where T or its orientation is unknown.
    """
    tensors = molecules.targets.get("polarizability", np.full((len(molecules), 3, 3), np.nan))
    spreads, axes = charge_axes(molecules)
    alpha = molecules.targets.get("alpha", np.full(len(molecules), np.nan))
    tensors = np.where(oriented(tensors, spreads, alpha)[:, None, None], tensors, np.nan)
    turned = axes[:, None] * HALF_TURNS[:, None]
    return turned @ tensors[:, None] @ turned.swapaxes(2, 3)


def oriented(tensors: np.ndarray, spreads: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Of which molecules the axes of the tensor are told by those of the charges.

    Not where two spreads are alike, as in symmetric tops and linear molecules; nor where all elements off the diagonal
    vanish, as symmetry makes them in water, for which the calculations have an order of axes of their own that nothing
    would give away; nor where the tensor is not that of the molecule.

    Args:
        tensors: ``[molecules, 3, 3]``, a0^3.
        spreads: of :func:`charge_axes`, ``[molecules, 3]``.
        alpha: the isotropic polarisability, ``[molecules]``, a0^3.

    Returns:
        bool ``[molecules]``.
    """
    apart = (spreads[:, :2] - spreads[:, 1:]).min(axis=1) > LEAST_GAP * spreads[:, 0]
    seen = np.abs(tensors[:, [0, 0, 1], [1, 2, 2]]).max(axis=1) > ROUNDING
    its_own = np.abs(np.trace(tensors, axis1=1, axis2=2) / 3 - alpha) < ROUNDING
    return apart & seen & its_own


def nearest(predicted: Tensor, possible: Tensor) -> Tensor:
    r"""Of the tensors that a molecule may have the one nearest to its prediction, which errors are taken from.

    .. math:: \arg\min_{T \in \text{possible}} |\hat T - T|

    A model is not told which way the axes point, and cannot be blamed for it. So the error is a lower bound of that
    from the true tensor. Errors of the trace and of the anisotropy do not depend on the choice.

    Args:
        predicted: ``[molecules, 9]``.
        possible: of :func:`possible_tensors`, ``[molecules, 4, 3, 3]``.

    Returns:
        ``[molecules, 9]``.
    """
    possible = possible.flatten(2)
    chosen = (predicted.unsqueeze(1) - possible).square().sum(dim=2).argmin(dim=1)
    return torch.take_along_dim(possible, chosen.view(-1, 1, 1), dim=1).squeeze(1)


def isotropic_and_anisotropy(tensors: Tensor) -> tuple[Tensor, Tensor]:
    r"""What no turn changes: a third of the trace, and the size of the rest.

    .. math:: \alpha = \mathrm{tr}\,T / 3, \qquad \Delta\alpha = \sqrt{3/2} \; |T - \alpha 1|

    Of a tensor with one axis, the anisotropy is the difference of its elements along and across it.

    Args:
        tensors: symmetric, ``[molecules, 9]``.

    Returns:
        both ``[molecules]``.
    """
    matrices = tensors.unflatten(1, (3, 3))
    isotropic = matrices.diagonal(dim1=1, dim2=2).mean(dim=1)
    one = torch.eye(3, dtype=tensors.dtype, device=tensors.device)
    return isotropic, 1.5**0.5 * (matrices - isotropic.view(-1, 1, 1) * one).flatten(1).norm(dim=1)
