"""Networks whose outputs come in the unit of the target, about what is known without them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from equivariant_attention.basis import BasisAndR
from equivariant_attention.graphs import as_graph, graph_of_node, with_edge_fields
from equivariant_attention.plan import Plan
from equivariant_attention.segments import segment_sum
from experiments.qm9.polarizability import isotropic_and_anisotropy
from experiments.qm9.targets import ELEMENTS

MORE_THAN_LINEAR = "more of each than what is linear in the atoms"


class Scaled(nn.Module):
    r"""A network whose outputs come in the unit of the target.

    .. math:: y = \mathrm{mean} + \mathrm{std} \cdot f(G), \qquad \text{per atom:} \quad
              y = \frac{N}{\bar N} \, (\mathrm{mean} + \mathrm{std} \cdot f(G))

    with the number of atoms N of a molecule, and its mean over the training set.

    Args:
        net: f, of one number or vector per molecule.
        per_atom: whether the target grows with the molecule, which a mean over the atoms does not show.

    Attributes:
        mean, std: of what is left for the network to learn, in the unit of the target; 0 and 1 before :meth:`fit`.
        size: mean number of atoms, where it counts.
        parity: if given, what is predicted in evaluation is the mean of a molecule and its mirror image, whose target
            is this, 1 or -1, times that of the molecule. Models of SO(3) tell them from each other.
    """

    parity: int | None = None

    def __init__(self, net: nn.Module, per_atom: bool = False) -> None:
        super().__init__()
        self.net, self.per_atom = net, per_atom
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("size", torch.ones(()))
        self.register_load_state_dict_pre_hook(_accept_published)

    def fit(self, targets: Tensor, element_counts: Tensor) -> None:
        """Take mean and standard deviation of a training set. Vectors have no mean, which would point somewhere.

        Args:
            targets: ``[molecules, 1]``, or ``[molecules, 3]`` for vectors.
            element_counts: atoms of each element, ``[molecules, elements]``.

        Raises:
            ValueError: all targets are the same.
        """
        if self.per_atom:
            num_atoms = element_counts.sum(dim=1)
            size = num_atoms.double().mean()
            self.size.copy_(size)
            targets = targets * (size / num_atoms).unsqueeze(1)
        largest = targets.abs().amax()
        if targets.shape[1] == 1:
            self.mean.copy_(targets.mean())
            targets = targets - targets.mean()
        self.std.copy_(_spread(targets, largest, "more than one value to learn from"))

    def without_network(self, element_counts: Tensor) -> Tensor:
        """What it predicts where the network gives 0: the mean of the training set, ``[molecules, 1]``.

        Args:
            element_counts: atoms of each element, ``[molecules, elements]``.
        """
        num_atoms = element_counts.sum(dim=1)
        factor = num_atoms / self.size if self.per_atom else torch.ones_like(num_atoms)
        return self.mean * factor.unsqueeze(1)

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """``[molecules, 1]`` or ``[molecules, 3]``, in the unit of the target; arguments as of the network."""
        y = self.mean + self.std * self.of_network(G, basis_and_r, plan)
        if not self.per_atom:
            return y
        return y * (as_graph(G).batch_num_nodes() / self.size).unsqueeze(1)

    def of_network(self, G: Any, basis_and_r: BasisAndR | None, plan: Plan | None) -> Tensor:
        """f, or its mean with that of the mirror images, as precise as the mean, which bfloat16 could not hold."""
        y = self.net(G, basis_and_r, plan).to(self.mean.dtype)
        if self.training or self.parity is None:
            return y
        graph = as_graph(G)
        mirrored = with_edge_fields(graph, {**graph.edata, "d": -graph.edata["d"]})
        mirrored.ndata["f"] = graph.ndata["f"]
        return (y + self.parity * self.net(mirrored, plan=plan)) / 2


def linear_in_atoms(element_counts: Tensor, targets: Tensor) -> Tensor:
    """A constant and a contribution of each atom, by its element alone, fitted by least squares.

    Args:
        element_counts: atoms of each element, ``[molecules, elements]``.
        targets: ``[molecules, targets]``.

    Returns:
        ``[1 + elements, targets]``, the constant first.
    """
    ones_and_counts = nn.functional.pad(element_counts.to(targets.dtype), (1, 0), value=1.0)
    # This driver is for any rank: of an element there may be none.
    return torch.linalg.lstsq(ones_and_counts, targets, driver="gelsd").solution


class ScaledTogether(Scaled):
    r"""A network of several numbers per molecule, each in the unit of its target.

    .. math:: y_t = \mathrm{mean}_t + \sum_e n_e w_{et} + \mathrm{std}_t f_t(G)

    with the number :math:`n_e` of atoms of each element, which alone tells most of what grows with a molecule.

    Args:
        net: f, of one number per molecule and target.
        targets: how many.
        lengths: which targets f gives as lengths of vectors: of them, y is std times f, and std that of them whole.

    Attributes:
        mean, per_element: constant and w of a least-squares fit, ``[targets]`` and ``[elements, targets]``.
        std: of what it leaves for the network to learn, ``[targets]``.
    """

    def __init__(self, net: nn.Module, targets: int, lengths: Sequence[int] = ()) -> None:
        super().__init__(net)
        self.register_buffer("lengths", torch.tensor(list(lengths), dtype=torch.int64), persistent=False)
        self.register_buffer("mean", torch.zeros(targets))
        self.register_buffer("per_element", torch.zeros(len(ELEMENTS), targets))
        self.register_buffer("std", torch.ones(targets))

    def fit(self, targets: Tensor, element_counts: Tensor) -> None:
        """Fit what is linear in the atoms to a training set, and take the standard deviation of what is left.

        Args:
            targets: ``[molecules, targets]``.
            element_counts: atoms of each element, ``[molecules, elements]``.

        Raises:
            ValueError: of one target nothing is left.
        """
        fitted = linear_in_atoms(element_counts, targets)
        left = targets - fitted[0] - element_counts.to(targets.dtype) @ fitted[1:]
        left[:, self.lengths] = targets[:, self.lengths]
        std = _spread(left.unsqueeze(-1), targets.abs().amax(dim=0), MORE_THAN_LINEAR)
        for buffer, value in ((self.mean, fitted[0]), (self.per_element, fitted[1:]), (self.std, std)):
            buffer.copy_(value)

    def without_network(self, element_counts: Tensor) -> Tensor:
        """What is linear in the atoms, ``[molecules, targets]``.

        Args:
            element_counts: atoms of each element, ``[molecules, elements]``.
        """
        return self.mean + element_counts.to(self.mean.dtype) @ self.per_element

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """``[molecules, targets]``, each in the unit of its target; arguments as of the network."""
        graph = as_graph(G)
        is_element = graph.ndata["f"][:, : len(ELEMENTS), 0]
        counts = segment_sum(is_element, graph_of_node(graph), graph.batch_size)
        known = self.without_network(counts).index_fill(1, self.lengths, 0)
        return known + self.std * self.of_network(G, basis_and_r, plan)


class ScaledTensor(ScaledTogether):
    r"""A network of one tensor per molecule, in the unit of the target.

    .. math:: T = \big( \mathrm{mean} + \sum_e n_e w_e \big) 1 + \mathrm{std} \cdot f(G)

    Args:
        net: f.

    Attributes:
        mean, per_element: constant and w of a least-squares fit to a third of the trace, ``[1]`` and ``[elements, 1]``.
        std: of what it leaves for the network to learn, by the norm of the tensors, ``[1]``.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, 1)

    def fit(self, targets: Tensor, element_counts: Tensor) -> None:
        """Fit the isotropic part to a training set, and take the standard deviation of what is left.

        Args:
            targets: the tensors that each may have, which all have one trace, ``[molecules, 4, 3, 3]``.
            element_counts: atoms of each element, ``[molecules, elements]``.

        Raises:
            ValueError: nothing is left.
        """
        tensors = targets[:, 0].flatten(1)
        isotropic, _ = isotropic_and_anisotropy(tensors)
        fitted = linear_in_atoms(element_counts, isotropic.unsqueeze(1))
        self.mean.copy_(fitted[0])
        self.per_element.copy_(fitted[1:])
        left = tensors - self.without_network(element_counts)
        self.std.copy_(_spread(left, tensors.abs().amax(), MORE_THAN_LINEAR))

    def without_network(self, element_counts: Tensor) -> Tensor:
        """What it predicts where the network gives 0: isotropic tensors, ``[molecules, 9]``.

        Args:
            element_counts: atoms of each element, ``[molecules, elements]``.
        """
        one = torch.eye(3, dtype=self.mean.dtype, device=self.mean.device).flatten()
        return super().without_network(element_counts) * one


def _spread(left: Tensor, largest: Tensor, expected: str) -> Tensor:
    """The standard deviation of what there is to learn, which must be more than rounding.

    Args:
        left: ``[molecules, ..., numbers]``, of which the norm counts.
        largest: of the targets.
        expected: of them, where all that is left is rounding.
    """
    std = left.square().sum(dim=-1).mean(dim=0).sqrt()
    if not (std > 1e-6 * largest).all():
        raise ValueError(f"targets: expected {expected}")
    return std


def _accept_published(module: nn.Module, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
    """Let weights of the network alone, as the published code saves them, be those of a Scaled one."""
    own = {f"{prefix}{name}" for name in module.state_dict()}
    if own & state_dict.keys():
        return
    for name in [name for name in state_dict if name.startswith(prefix)]:
        state_dict[f"{prefix}net.{name.removeprefix(prefix)}"] = state_dict.pop(name)
    metadata = getattr(state_dict, "_metadata", {})  # says whose signs the weights have
    for name in [name for name in metadata if name.startswith(prefix)]:
        metadata.setdefault(f"{prefix}net.{name.removeprefix(prefix)}", metadata[name])
    for name, _ in module.named_buffers(recurse=False):
        state_dict[prefix + name] = getattr(module, name)
