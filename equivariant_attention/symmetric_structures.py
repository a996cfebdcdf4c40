"""Molecules and crystal sites of high symmetry, where vectors must vanish and rounding does not let them: for tests."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .checks import check_not_negative, check_whole_number
from .graphs import Graph
from .neighbors import radius_graph

_GRID = torch.cartesian_prod(*[torch.arange(-2, 3, dtype=torch.float64)] * 3)
_ALL = 10.0  # wider than every molecule here: an edge between every two atoms

_Structure = tuple[list[int], Tensor, float]  # atomic numbers, positions [nodes, 3], how far edges reach


def symmetric_graphs(dtype: torch.dtype = torch.float32, displacement: float = 0.0, seed: int = 0) -> dict[str, Graph]:
    r"""Graphs on which equivariance is hardest: at their centres every vector, or every tensor, is 0 by symmetry.

    What is computed there is rounding noise, which turns in its own way; a layer that looks at its direction is not
    equivariant, however well it does on random points::

        for name, G in symmetric_graphs().items():
            assert_equivariant(predict, G, rotations=3)

    Args:
        dtype: of the positions, float32 or float64.
        displacement: how far each node is moved, in a random direction: nearly symmetric, and in float32 a small
            difference of large numbers. The edges stay those of the symmetric structure.
        seed: of the directions, which are the same for every displacement.

    Returns:
        by name, each with a node at the origin in front, but for ``'benzene'`` (whose ring is around it):

        ============== ===============================================================================================
        'tetrahedron'  methane
        'octahedron'   sulphur hexafluoride
        'cube'         caesium with eight chlorine atoms
        'CO2'          carbon dioxide
        'allene'       CH2=C=CH2, whose ends are at a right angle
        'benzene'      all on a plane
        'CF4'          carbon tetrafluoride
        'CH3'          the methyl radical, on a plane
        'fcc'          a site of copper with its two nearest shells of neighbours
        'bcc'          the same of iron
        'diamond'      the same of carbon
        'coincident'   methane twice in the same place, with edges of length zero
        ============== ===============================================================================================

        Molecules have an edge, each way, between every two atoms, crystals between neighbours. ``ndata['x']``
        ``[nodes, 1, 3]``, in ångström; ``ndata['z']``, atomic numbers ``[nodes]``; ``edata['d'] = x_dst - x_src``
        ``[edges, 3]``.

    Raises:
        ValueError: ``dtype`` is another, ``displacement`` is not finite and at least 0, or ``seed`` no whole number.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    check_not_negative(displacement, "displacement")
    check_whole_number(seed, 0, "seed")
    generator = torch.Generator().manual_seed(seed)
    return {name: _graph(*made, dtype, displacement, generator) for name, made in _structures().items()}


def _graph(
    z: list[int], x: Tensor, reach: float, dtype: torch.dtype, displacement: float, generator: torch.Generator
) -> Graph:
    G = radius_graph(x, reach)
    direction = torch.nn.functional.normalize(torch.randn(x.shape, generator=generator, dtype=x.dtype), dim=1)
    x = (x + displacement * direction).to(dtype)
    src, dst = G.edges()
    G.ndata["x"], G.ndata["z"], G.edata["d"] = x[:, None], torch.tensor(z), x[dst] - x[src]
    return G


def _structures() -> dict[str, _Structure]:
    cube, tetrahedron = _shell(3), _shell(3)[_shell(3).prod(dim=1) > 0]
    methane = _around(6, 1, 1.087, tetrahedron)
    return {
        "tetrahedron": methane,
        "octahedron": _around(16, 9, 1.561, _shell(1)),
        "cube": _around(55, 17, 3.571, cube),
        "CO2": _around(6, 8, 1.162, _shell(1)[[0, -1]]),
        "allene": _allene(),
        "benzene": _benzene(),
        "CF4": _around(6, 9, 1.323, tetrahedron),
        "CH3": _around(6, 1, 1.079, _polygon(3)),
        "fcc": _around(29, 29, 2.556, torch.cat([_shell(2), _shell(4)]), reach=3.0),
        "bcc": _around(26, 26, 2.482, torch.cat([cube, _shell(4)]), reach=3.2),
        "diamond": _around(6, 6, 1.545, torch.cat([tetrahedron, _shell(8)]), reach=1.8),
        "coincident": (2 * methane[0], methane[1].repeat(2, 1), _ALL),
    }


def _shell(square: int) -> Tensor:
    """The points of whole numbers up to 2 whose squares add up to ``square``."""
    return _GRID[_GRID.square().sum(dim=1) == square]


def _polygon(corners: int) -> Tensor:
    angle = 2 * math.pi * torch.arange(corners, dtype=torch.float64) / corners
    return torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], dim=1)


def _around(centre: int, other: int, length: float, others: Tensor, reach: float = _ALL) -> _Structure:
    """An atom with others around it, the first of which is as far away as ``length``."""
    x = torch.cat([torch.zeros(1, 3, dtype=torch.float64), others * (length / others[0].norm())])
    return [centre] + [other] * len(others), x, reach


def _allene() -> _Structure:
    x, z = 1.087 * math.sin(math.radians(59.1)), 1.308 + 1.087 * math.cos(math.radians(59.1))
    carbons, hydrogens = [[0, 0, 0], [0, 0, 1.308], [0, 0, -1.308]], [[x, 0, z], [-x, 0, z], [0, x, -z], [0, -x, -z]]
    return [6] * 3 + [1] * 4, torch.tensor(carbons + hydrogens, dtype=torch.float64), _ALL


def _benzene() -> _Structure:
    ring = _polygon(6)
    return [6] * 6 + [1] * 6, torch.cat([1.397 * ring, 2.484 * ring]), _ALL
