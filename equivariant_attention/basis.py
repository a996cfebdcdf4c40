"""What is computed once per forward pass from the relative positions: the equivariant basis and the distances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .checks import check_of_graph, check_whole_number
from .graphs import GraphLike, as_graph
from .native.private import is_watched
from .plan import Plan, relative_positions
from .precision import full_precision
from .so3 import aligning_matrices, coupling, spherical_harmonics
from .so3.vectors import length_and_direction
from .unchanged import Snapshot, assert_equal, can_look_at

ZERO_EDGES = ("isotropic", "published")


class Basis(Mapping[str, Tensor]):
    """The equivariant weight basis of every edge and pair of degrees, formed when first asked for.

    .. math:: W_J^{lk}(x) = \\sum_m Y_{Jm}(x / |x|) Q_{Jm}^{lk}, \\qquad J = |l-k|, ..., l+k

    (equation (8) of arXiv 2006.10503). ``basis['k,l']`` is the published tensor ``[edges, 1, 2l+1, 1, 2k+1, F]``,
    ``F = 2 min(l, k) + 1``, with k the degree in, l the degree out, and J ascending in the last dimension.

    Args:
        direction: unit vectors along the edges, ``[edges, 3]``; zero for an edge of length zero that has no direction.
        max_degree: largest degree in or out.
        plan: of the graph.
        G: the graph.
        r: the distances that go with it.
        frames: what :attr:`frames` is to be, where it is known; None forms it when first asked for.
        zero_edges: as of :func:`get_basis_and_r`.
    """

    def __init__(
        self,
        direction: Tensor,
        max_degree: int,
        plan: Plan,
        G: GraphLike,
        r: Tensor,
        frames: list[Tensor] | None = None,
        zero_edges: str = "isotropic",
    ) -> None:
        self.direction, self.max_degree, self.plan, self.zero_edges = direction, max_degree, plan, zero_edges
        src, dst = G.edges()
        self._seen = {"src": Snapshot(src, plan.src), "dst": Snapshot(dst, plan.dst)}
        self._seen["edata['d']"] = Snapshot(G.edata["d"])
        self._radial = Snapshot(G.edata.get("w")), Snapshot(r)
        # torch.compile leaves inference mode and versions of tensors as they are, and cannot look at them.
        self._inference = not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()
        self._gradients = torch.is_grad_enabled()
        degrees = range(max_degree + 1)
        self._formed: dict[str, Tensor | None] = {f"{k},{l}": None for k in degrees for l in degrees}
        self._harmonics: Tensor | None = None
        self._frames = frames

    def __getitem__(self, pair: str) -> Tensor:
        if pair not in self._formed:
            raise KeyError(f"basis has the pairs 'k,l' of degrees 0 to {self.max_degree}, not {pair!r}")
        tensor = self._formed[pair]
        if tensor is None:
            degree_in, degree_out = pair.split(",")
            with self._as_constructed():
                tensor = self._formed[pair] = self._form(int(degree_in), int(degree_out))
        return tensor

    def __contains__(self, pair: object) -> bool:
        return pair in self._formed

    @property
    def harmonics(self) -> Tensor:
        """Spherical harmonics of degrees 0 to ``2 max_degree``, ``[edges, (2 max_degree + 1)^2]``."""
        if self._harmonics is None:
            with self._as_constructed():
                self._harmonics = spherical_harmonics(2 * self.max_degree, self.direction)
        return self._harmonics

    @property
    def without_direction(self) -> Tensor:
        """The edges of length zero, unless they are taken to point somewhere."""
        zero_edges = self.plan.zero_edges
        return zero_edges if self.zero_edges == "isotropic" else zero_edges[:0]

    @property
    def frames(self) -> list[Tensor]:
        """Wigner-D matrices that turn each edge to the polar axis, one ``[edges, 2l+1, 2l+1]`` per degree.

        The edges are in the order of the plan. On an edge without direction they are 0 for l > 0.
        """
        if self._frames is None:
            with self._as_constructed():
                self._frames = aligning_matrices(self.max_degree, self.direction[self.plan.order])
        return self._frames

    def is_of(self, w: Tensor | None, r: Tensor) -> bool:
        """Whether ``w`` and ``r`` are the edge features and distances of the plan, so that its pairs are equal.

        Where reading values would make the host wait, as on a GPU, they count as unchanged until PyTorch's version
        counter says that one of them was written to.

        Raises:
            RuntimeError: in inference mode, where there are no version counters, the values were changed after all.
                The error comes when the host next waits.
        """
        given = list(zip(self._radial, (w, r), strict=True))
        if can_look_at(r):
            return all(seen.equals(value) for seen, value in given)
        if not all(seen.is_untouched(value) for seen, value in given):
            return False
        if not is_watched() and r.is_inference():
            assert_equal(given, "r and edata['w'] must not be written to in inference mode, after get_basis_and_r")
        return True

    def check(self, G: GraphLike) -> None:
        """Refuse a graph ``G`` that the basis is not of.

        Raises:
            ValueError: it has another number of nodes or edges, is on another device, or its edges or ``edata['d']``
                were written to.
            RuntimeError: it has other edges or another ``edata['d']``, or the plan was written to. On a GPU the error
                comes when the host next waits.
        """
        plan, edges = self.plan, dict(zip(("src", "dst"), G.edges(), strict=True))
        # Layers need no edata['d'] beside the basis.
        given = {**edges, "edata['d']": G.edata["d"]} if "d" in G.edata else edges
        check_of_graph(
            "basis",
            ("nodes", G.num_nodes(), plan.num_nodes),
            ("edges", G.num_edges(), plan.num_edges),
            *(("device", value.device, plan.src.device) for value in given.values()),
        )
        plan.check_unwritten()
        seen = [(self._seen[name], value) for name, value in given.items()]
        if not can_look_at(plan.src):
            if not all(snapshot.is_untouched(value) for snapshot, value in seen):
                assert_equal(seen, "basis must be of this graph: edges or edata['d'] are not what it was made of")
            return
        for name, (snapshot, value) in zip(given, seen, strict=True):
            if not snapshot.equals(value):
                if value is snapshot.tensor:
                    raise ValueError(f"basis must be of this graph: {name} was written to after get_basis_and_r")
                raise RuntimeError(f"basis must be of this graph: {name} is not what it was made of")

    @contextmanager
    def _as_constructed(self) -> Iterator[None]:
        # The first to ask may be under no_grad or autocast, but what is formed is kept for all who ask later.
        device = self.direction.device
        inference = nullcontext() if torch.compiler.is_compiling() else torch.inference_mode(self._inference)
        with inference, torch.set_grad_enabled(self._gradients), full_precision(device):
            yield

    def _form(self, k: int, l: int) -> Tensor:
        matrices = []
        for J in range(abs(l - k), l + k + 1):
            Q = coupling(l, k, J, self.harmonics.dtype, self.harmonics.device)
            matrices.append(self.harmonics[:, J**2 : (J + 1) ** 2] @ Q.flatten(0, 1).T)
        return torch.stack(matrices, dim=-1).view(-1, 1, 2 * l + 1, 1, 2 * k + 1, len(matrices))

    def __iter__(self) -> Iterator[str]:
        return iter(self._formed)

    def __len__(self) -> int:
        return len(self._formed)

    def __repr__(self) -> str:
        return f"Basis(edges={self.direction.shape[0]}, max_degree={self.max_degree})"


BasisAndR = tuple[Basis, Tensor]  # of one graph, from get_basis_and_r or a BasisCache


def get_basis_and_r(
    G: Any,
    max_degree: int,
    compute_gradients: bool = False,
    plan: Plan | None = None,
    zero_edges: str = "isotropic",
) -> BasisAndR:
    """The equivariant basis and the distances of a graph; call it once per forward pass.

    Args:
        G: DGLGraph, :class:`~equivariant_attention.graphs.Graph` or PyTorch Geometric ``Data`` with ``edata['d']``, the
            relative positions ``x_dst - x_src``, ``[edges, 3]`` or ``[edges, 1, 3]``, float32 or float64.
        max_degree: largest degree of any feature of the model, at least 0.
        compute_gradients: let gradients flow from the basis to ``edata['d']``. They flow from the distances always.
        plan: of this graph, made ahead; None makes one, which reads values.
        zero_edges: what becomes of edges of length zero, such as self-loops: 'isotropic', they carry only J = 0, which
            needs no direction; 'published', they are taken to point along (0, 1, 0), as in the published code. That is
            **not equivariant**, and meant for weights that were trained so. In either case the derivative with
            respect to ``edata['d']`` is 0 there.

    Returns:
        the :class:`Basis` and r, the lengths of ``edata['d']``, ``[edges, 1]``.

    Raises:
        KeyError: the graph has no ``edata['d']``.
        TypeError, ValueError: as :class:`~equivariant_attention.plan.Plan` says of the values of the graph;
            ``max_degree`` is not a whole number of at least 0; ``zero_edges`` is neither; or ``plan`` is of another
            graph, or not a plan.
        RuntimeError: ``plan`` is of a graph with other values.
    """
    check_whole_number(max_degree, 0, "max_degree")
    check_zero_edges(zero_edges)
    G = as_graph(G)
    d = relative_positions(G)
    if plan is None:
        plan = Plan(G)
    elif isinstance(plan, Plan):
        plan.check(G)
    else:
        raise TypeError(f"plan must be a Plan or None, got {type(plan).__name__}")
    r, direction = length_and_direction(d)
    direction = directed(direction if compute_gradients else direction.detach(), zero_edges)
    return Basis(direction, max_degree, plan, G, r, zero_edges=zero_edges), r


def check_zero_edges(zero_edges: Any) -> None:
    """Refuse ``zero_edges`` that name no way to treat edges of length zero with a ValueError."""
    if zero_edges not in ZERO_EDGES:
        raise ValueError(f"zero_edges must be one of {ZERO_EDGES}, got {zero_edges!r}")


def directed(direction: Tensor, zero_edges: str) -> Tensor:
    """Each ``direction``, ``[edges, 3]``, those of length zero as :func:`get_basis_and_r` says of ``zero_edges``."""
    if zero_edges == "isotropic":
        return direction
    upwards = (torch.arange(3, device=direction.device) == 1).to(direction.dtype)
    return torch.where((direction == 0).all(-1, keepdim=True), upwards, direction)


def get_basis(
    G: Any,
    max_degree: int,
    compute_gradients: bool = False,
    plan: Plan | None = None,
    zero_edges: str = "isotropic",
) -> Basis:
    """The equivariant basis alone: arguments, errors and value as in :func:`get_basis_and_r`."""
    return get_basis_and_r(G, max_degree, compute_gradients, plan, zero_edges)[0]


def get_r(G: Any) -> Tensor:
    """The distances alone, ``[edges, 1]``: arguments and errors as in :func:`get_basis_and_r`."""
    return get_basis_and_r(G, 0)[1]
