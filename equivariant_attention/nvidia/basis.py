"""NVIDIA's basis, as a dict of tensors; and what the layers use where none is given: frames of the edges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..basis import BasisAndR, get_basis_and_r
from ..checks import check_floating_point, check_trailing, check_whole_number
from ..graphs import Graph, GraphLike, with_edge_fields
from ..nvidia.layout import coupling_sign
from ..nvidia.utils import degree_to_dim
from ..precision import full_precision
from ..so3 import coupling, spherical_harmonics
from ..so3.vectors import length_and_direction


def get_all_clebsch_gordon(max_degree: int, device: torch.device | str = "cpu") -> list[list[Tensor]]:
    """The couplings of all pairs of degrees, in float64.

    Args:
        max_degree: largest degree in or out.
        device: of the tensors.

    Returns:
        for each degree in k, and for each degree out l within it, those of J from ``|k - l|`` to ``k + l``, each
        ``[2l+1, 2k+1, 2J+1]``.
    """
    check_whole_number(max_degree, 0, "max_degree")
    degrees = range(max_degree + 1)
    return [
        [coupling_sign(k, l, J) * coupling(l, k, J, device=device) for J in range(abs(k - l), k + l + 1)]
        for k in degrees
        for l in degrees
    ]


def get_spherical_harmonics(relative_pos: Tensor, max_degree: int) -> list[Tensor]:
    """Real spherical harmonics of the directions.

    Args:
        relative_pos: relative positions of the edges, ``[edges, 3]``, of any length; where it is zero, all harmonics
            but that of degree 0 are zero.
        max_degree: largest degree in or out.

    Returns:
        those of degrees J from 0 to ``2 max_degree``, ``[edges, 2J+1]`` each.
    """
    check_trailing(relative_pos, (3,), "relative_pos")
    check_whole_number(max_degree, 0, "max_degree")
    harmonics = spherical_harmonics(2 * max_degree, length_and_direction(relative_pos)[1])
    return list(harmonics.split([degree_to_dim(J) for J in range(2 * max_degree + 1)], dim=-1))


def get_basis(
    relative_pos: Tensor,
    max_degree: int = 4,
    compute_gradients: bool = False,
    use_pad_trick: bool = False,
    amp: bool = False,
) -> dict[str, Tensor]:
    r"""The equivariant basis of every edge and pair of degrees. The layers need none: without it they use frames.

    .. math:: W_J^{lk}(x) = \sum_m Y_{Jm}(x / |x|) Q_{Jm}^{lk}

    Args:
        relative_pos: relative positions of the edges, ``[edges, 3]``.
        max_degree: largest degree in or out.
        compute_gradients: let gradients flow to ``relative_pos``.
        use_pad_trick: append zeros to the last dimension, so that it is even.
        amp: in float16.

    Returns:
        ``{'k,l': [edges, 2k+1, F, 2l+1]}``, F the number of J from ``|k - l|`` to ``k + l``.
    """
    needs_gradients = compute_gradients and torch.is_grad_enabled()
    with torch.set_grad_enabled(needs_gradients), full_precision(relative_pos.device):
        harmonics = get_spherical_harmonics(relative_pos, max_degree)
        couplings = iter(get_all_clebsch_gordon(max_degree, relative_pos.device))
        basis = {}
        for k in range(max_degree + 1):
            for l in range(max_degree + 1):
                kernels = [
                    torch.einsum("em,lkm->ekl", harmonics[J], Q.to(relative_pos.dtype))
                    for J, Q in enumerate(next(couplings), abs(k - l))
                ]
                kernel = pad(torch.stack(kernels, dim=2), (0, int(use_pad_trick)))
                basis[f"{k},{l}"] = kernel.half() if amp else kernel
    return basis


def update_basis_with_fused(
    basis: Mapping[str, Tensor], max_degree: int, use_pad_trick: bool, fully_fused: bool
) -> dict[str, Tensor]:
    """The basis without ``'0,0'``, and with pairs put together as the package's kernels take them. No layer here does.

    Args:
        basis: from :func:`get_basis`; it is not changed.
        max_degree: as there.
        use_pad_trick: whether the last dimension of ``basis`` has a zero appended, which is left out here.
        fully_fused: also put all pairs together.

    Returns:
        the tensors of ``basis``; for every degree d ``'out{d}_fused'``, ``[edges, sum of 2k+1, F of all k, 2d+1]``, and
        ``'in{d}_fused'``, ``[edges, 2d+1, F of all l, sum of 2l+1]``; and ``'fully_fused'`` alike.
    """
    degrees = range(max_degree + 1)
    pairs = {(k, l): basis[f"{k},{l}"][..., : degree_to_dim(l)] for k in degrees for l in degrees}
    fused = {name: value for name, value in basis.items() if name != "0,0"}
    for d in degrees:
        fused[f"out{d}_fused"] = _blocks(pairs, [(k, d) for k in degrees])
        fused[f"in{d}_fused"] = _blocks(pairs, [(d, l) for l in degrees])
    if fully_fused:
        fused["fully_fused"] = _blocks(pairs, [(k, l) for l in degrees for k in degrees])
    return fused


def _blocks(pairs: Mapping[tuple[int, int], Tensor], chosen: list[tuple[int, int]]) -> Tensor:
    """Kernels of several pairs as one, zero where it maps between other degrees."""
    degrees_in, degrees_out = (sorted(set(column)) for column in zip(*chosen, strict=True))
    rows = []
    for k, l in chosen:
        before_in, after_in = (sum(map(degree_to_dim, part)) for part in _around(degrees_in, k))
        before_out, after_out = (sum(map(degree_to_dim, part)) for part in _around(degrees_out, l))
        rows.append(pad(pairs[k, l], (before_out, after_out, 0, 0, before_in, after_in)))
    return torch.cat(rows, dim=2)


def _around(degrees: list[int], degree: int) -> tuple[list[int], list[int]]:
    place = degrees.index(degree)
    return degrees[:place], degrees[place + 1 :]


class GivenBasis(Mapping[str, Tensor]):
    """A basis of the package in this library's layout, ``'k,l'``: ``[edges, 1, 2l+1, 1, 2k+1, F]``: views of it.

    Args:
        basis: ``{'k,l': [edges, 2k+1, F, 2l+1]}``, of any floating-point dtype, the last dimension possibly padded;
            other keys are left out.
        scalar: what stands for ``'0,0'`` where ``basis`` lacks it.
        like: a tensor ``[edges, ...]`` of the dtype that this is to have, and of its device.
    """

    def __init__(self, basis: Mapping[str, Tensor], scalar: float, like: Tensor) -> None:
        self._basis, self._scalar, self._like = basis, scalar, like

    def check(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Refuse a basis that lacks one of these pairs (k, l), or has it of other edges, with an error that says so.

        Raises:
            TypeError, ValueError: as said.
        """
        for k, l in pairs:
            name = f"basis['{k},{l}']"
            if f"{k},{l}" not in self:
                raise ValueError(f"basis must hold '{k},{l}': get_basis needs max_degree of at least {max(k, l)}")
            value = self._basis.get(f"{k},{l}", self._like)
            check_floating_point(value, name)
            if value.device != self._like.device:
                raise ValueError(f"{name} must be on {self._like.device}, got a tensor on {value.device}")
            self[f"{k},{l}"]

    def __getitem__(self, pair: str) -> Tensor:
        if pair == "0,0" and pair not in self._basis:
            return self._like.new_full((1,) * 6, self._scalar).expand(len(self._like), *(1,) * 5)
        value = self._basis[pair].to(self._like.dtype)
        k, l = map(int, pair.split(","))
        shape = [len(self._like), degree_to_dim(k), 2 * min(k, l) + 1]
        if value.dim() != 4 or list(value.shape[:3]) != shape or value.shape[3] < degree_to_dim(l):
            raise ValueError(f"basis['{pair}'] must have shape {[*shape, degree_to_dim(l)]}, got {list(value.shape)}")
        return value[..., : degree_to_dim(l)].permute(0, 3, 1, 2)[:, None, :, None]

    def __contains__(self, pair: object) -> bool:
        return pair == "0,0" or pair in self._basis

    def __iter__(self) -> Iterator[str]:
        yield from ({"0,0": None} | {name: None for name in self._basis if name[:1].isdecimal()})

    def __len__(self) -> int:
        return sum(1 for _ in self)


def relative_positions(G: GraphLike) -> Tensor:
    """``edata['rel_pos']`` of ``G`` as ``[edges, 3]``.

    Raises:
        KeyError: there is none.
        TypeError, ValueError: it is not of float32 or float64, or has another shape.
    """
    if "rel_pos" not in G.edata:
        raise KeyError("the graph must have edata['rel_pos'], the relative positions of its edges, [edges, 3]")
    value = G.edata["rel_pos"]
    if tuple(value.shape) not in ((G.num_edges(), 3), (G.num_edges(), 1, 3)):
        raise ValueError(f"edata['rel_pos'] must have shape [{G.num_edges()}, 3], got {list(value.shape)}")
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"edata['rel_pos'] must be float32 or float64, got {value.dtype}")
    return value.reshape(-1, 3)


def as_here(G: GraphLike, scalars: Tensor) -> Graph:
    """The graph as the library's own layers take it.

    Args:
        G: with ``edata['rel_pos']``; it is not changed.
        scalars: what the radial networks see of every edge, ``[edges, edge_dim]``.
    """
    return with_edge_fields(G, {"d": relative_positions(G), "w": scalars})


def frames_of(G: Graph, max_degree: int, compute_gradients: bool) -> BasisAndR:
    """Frames of the edges, in place of a basis.

    Args:
        G: from :func:`as_here`.
        max_degree: largest degree of any feature.
        compute_gradients: let gradients flow from the frames to the relative positions.

    Returns:
        what :func:`~equivariant_attention.basis.get_basis_and_r` gives.

    Raises:
        TypeError, ValueError: as that says.
    """
    try:
        return get_basis_and_r(G, max_degree, compute_gradients)
    except ValueError as error:  # which calls them by their names in the other dialect
        message = str(error).replace("edata['d']", "edata['rel_pos']").replace("edata['w']", "edge_feats['0']")
        raise ValueError(message) from error


def scalars_of(edge_feats: Any, edges: int) -> Tensor:
    """What the radial networks see of every edge, ``[edges, edge_dim]``: the scalars of edge features."""
    scalars = edge_feats.get("0") if isinstance(edge_feats, Mapping) else None
    if not isinstance(scalars, Tensor) or scalars.dim() != 3 or scalars.shape[::2] != (edges, 1):
        got = list(scalars.shape) if isinstance(scalars, Tensor) else type(scalars).__name__
        raise ValueError(
            f"edge_feats['0'] must be a tensor [{edges}, channels, 1] with the distance as the last channel (see "
            f"get_populated_edge_features), got {got}"
        )
    return scalars.squeeze(-1)
