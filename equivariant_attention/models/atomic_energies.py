"""Energies of atoms that add up to those of structures, counted from the reference energies of their elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..checks import check_floating_point, check_positive, check_whole_number
from ..forces import Prediction, energy_forces_stress
from ..graphs import GraphLike, as_graph, graph_of_node
from ..models.elements import LARGEST_ATOMIC_NUMBER, symbols
from ..models.saving import Saveable
from ..plan import Plan, check_values, relative_positions
from ..precision import full_precision
from ..segments import segment_sum


class AtomicEnergies(Saveable):
    r"""What potentials have in common: an energy is a sum over atoms, of references and of what is learnt.

    .. math:: E = \sum_i \epsilon_{z_i} + \sigma \, e_i

    A subclass has ``_learnt``, from a graph with atomic numbers to e. References and scale are not trained:
    ``set_references`` takes them from data.

    Args:
        cutoff: how far edges reach, finite and larger than 0. It belongs to the model.
        envelope: p of the :func:`~equivariant_attention.envelope.polynomial_envelope`, at least 1; None for edges that
            end sharply, where energies jump.

    Attributes:
        reference, scale: :math:`\epsilon` and :math:`\sigma`, ``[119]`` and one number.
        known: the elements that references are of, bool ``[119]``; where there are any, others are refused.

    Raises:
        ValueError: an argument has another value.
    """

    reference: Tensor
    scale: Tensor
    known: Tensor

    def __init__(self, cutoff: float, envelope: int | None) -> None:
        super().__init__()
        check_positive(cutoff, "cutoff")
        if envelope is not None:
            check_whole_number(envelope, 1, "envelope")
        self.cutoff, self.envelope = float(cutoff), envelope
        self.register_buffer("reference", torch.zeros(LARGEST_ATOMIC_NUMBER + 1, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("known", torch.zeros(LARGEST_ATOMIC_NUMBER + 1, dtype=torch.bool))

    def forward(self, G: Any, plan: Plan | None = None) -> Tensor:
        """Energies of graphs; :meth:`predict` makes the graphs.

        Args:
            G: graph with ``ndata['z']``, atomic numbers, int64 ``[atoms]``, ``edata['d']`` of edges that reach as far
                as the cutoff and, unless edges end sharply, ``edata['envelope']``, ``[edges, 1]``.
            plan: of ``G`` if it is at hand; then no value is looked at, and the device asserts what they must be.

        Returns:
            ``[graphs]``, in the dtype of the references, float64. Autocast rounds none of it.

        Raises:
            KeyError: the graph lacks one of these.
            TypeError, ValueError: they have another shape, dtype or device; edges that are to end sharply have an
                envelope; or there is an element without reference.
        """
        G = as_graph(G)
        check_floating_point(relative_positions(G), "edata['d']", self)
        if ("envelope" in G.edata) != (self.envelope is not None):
            self._refuse_envelope()
        if plan is None:
            check_values(G)
        else:
            plan.check(G)
        z = self._checked(G.ndata["z"], G.num_nodes(), looked_at=plan is None)
        with full_precision(z.device):
            learnt = self.scale * self._learnt(G, z, plan)
        energies = learnt.to(self.reference.dtype) + self.reference[z]
        return segment_sum(energies, graph_of_node(G), G.batch_size)

    def _refuse_envelope(self) -> NoReturn:
        if self.envelope is None:
            raise ValueError("edata['envelope'] must not be there: the edges of this model end sharply, envelope=None")
        made = f"radius_graph(..., envelope={self.envelope}) makes it, and model.predict"
        raise KeyError(f"the graph must have edata['envelope']: {made}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AtomicEnergies:
        """What moves and casts a module; references stay in float64, as float32 would hold few of their digits."""
        before = self.reference
        super()._apply(fn, recurse)
        if self.reference.dtype != before.dtype:
            self.reference = before.to(self.reference.device)
        return self

    def _learnt(self, G: GraphLike, z: Tensor, plan: Plan | None) -> Tensor:
        """e, ``[atoms]``, of a graph whose values are as they must be."""
        raise NotImplementedError

    def predict(
        self,
        z: Tensor,
        x: Tensor,
        batch: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | bool | None = None,
    ) -> Prediction:
        """Energies, forces and stress.

        Args:
            z: atomic numbers, int64 ``[atoms]``.
            x, batch, cell, pbc: as of :func:`~equivariant_attention.neighbors.radius_graph`.

        Returns:
            as of :func:`~equivariant_attention.forces.energy_forces_stress`: they can be differentiated again unless
            gradients are switched off.

        Raises:
            TypeError, ValueError, ImportError: as of :meth:`forward` and ``radius_graph``.
        """
        return energy_forces_stress(self, self._checked(z, len(x)), x, self.cutoff, batch, cell, pbc, self.envelope)

    def set_references(self, z: Tensor, batch: Tensor, energy: Tensor, scale: float = 1.0) -> None:
        """Take the reference energies of elements from data, by :func:`reference_energies`, and forget those of others.

        Args:
            z, batch, energy: as there.
            scale: s, in the unit of energy; the spread of forces times a length of 1 does well.

        Raises:
            TypeError, ValueError: they do not go together, or are not finite.
        """
        check_positive(scale, "scale")
        if not math.isfinite(scale):
            raise ValueError(f"scale must be finite, got {scale}")
        self.reference.copy_(reference_energies(z, batch, energy))
        self.scale.fill_(scale)
        self.known.zero_()[z.unique()] = True

    def _checked(self, z: Any, atoms: int, looked_at: bool = True) -> Tensor:
        _check_atomic_numbers(z, atoms, looked_at)
        if not looked_at:
            torch._assert_async(self.known[z].all() | ~self.known.any(), "z must be of elements that it was trained on")
        elif not torch.compiler.is_compiling() and self.known.any() and not self.known[z].all():
            others, own = z[~self.known[z]].tolist(), self.known.nonzero().flatten().tolist()
            expected = f"the elements that the model was trained on, {symbols(own)}"
            raise ValueError(f"z must be of {expected}; got also {symbols(others)}")
        return z


def reference_energies(z: Tensor, batch: Tensor, energy: Tensor) -> Tensor:
    """Energies of the elements that add up to those of structures, by least squares.

    What cannot be told apart, such as elements that occur in one composition alone, is shared among their atoms.

    Args:
        z: atomic numbers of all structures, int64 ``[atoms]``.
        batch: structure of each atom, int64 ``[atoms]``, from 0.
        energy: of every structure, ``[structures]``.

    Returns:
        float64 ``[119]``, by atomic number; 0 for elements that do not occur.

    Raises:
        ValueError: they do not go together, or energies are not finite.
    """
    if not isinstance(batch, Tensor) or batch.dtype not in (torch.int64, torch.int32) or batch.dim() != 1:
        got = f"{batch.dtype} {list(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
        raise ValueError(f"batch must be the structures of atoms, int64 [atoms], got {got}")
    _check_atomic_numbers(z, len(batch))
    if not isinstance(energy, Tensor) or energy.dim() != 1:
        shape = [*energy.shape] if isinstance(energy, Tensor) else type(energy).__name__
        raise ValueError(f"energy must be a tensor [structures], got {shape}")
    if not energy.isfinite().all() or (len(batch) and not 0 <= int(batch.min()) <= int(batch.max()) < len(energy)):
        raise ValueError(f"energy must be finite and of every structure of batch, got {list(energy.shape)}")
    counts = torch.zeros(len(energy), LARGEST_ATOMIC_NUMBER + 1, dtype=torch.float64)
    counts.index_put_((batch.cpu(), z.cpu()), torch.ones(len(z), dtype=torch.float64), accumulate=True)
    return torch.linalg.pinv(counts) @ energy.detach().double().cpu()


def _check_atomic_numbers(z: Any, atoms: int, looked_at: bool = True) -> None:
    if not isinstance(z, Tensor) or z.dtype not in (torch.int64, torch.int32) or tuple(z.shape) != (atoms,):
        got = f"{z.dtype} {list(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(f"z must be atomic numbers, int64 [{atoms}], got {got}")
    if torch.compiler.is_compiling() or not atoms:
        return
    if not looked_at:
        torch._assert_async(((z >= 1) & (z <= LARGEST_ATOMIC_NUMBER)).all(), f"z must be 1 to {LARGEST_ATOMIC_NUMBER}")
        return
    if not (int(z.min()) >= 1 and int(z.max()) <= LARGEST_ATOMIC_NUMBER):
        raise ValueError(f"z must be 1 to {LARGEST_ATOMIC_NUMBER}, got {int(z.min())} to {int(z.max())}")
