"""The radial network, :class:`RadialFunc`: radial weights of a kernel from the distance and the edge features."""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from ..checks import check_floating_point, check_makes_module, check_whole_number
from ..contraction.radial import HIDDEN
from ..modules.layer_norm import LayerNorm


class BN(nn.Module):
    """LayerNorm over the last dimension, ``[..., m]`` to ``[..., m]``, under its published name.

    Args:
        m: length of the last dimension.

    Raises:
        ValueError: ``m`` is not a whole number of at least 1.
    """

    def __init__(self, m: int) -> None:
        super().__init__()
        check_whole_number(m, 1, "m")
        self.bn = LayerNorm(m)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, ``[..., m]``."""
        return self.bn(x)


def made(make: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """``make`` itself if it is a module, otherwise the module that calling it makes."""
    return make if isinstance(make, nn.Module) else make()


class RadialFunc(nn.Module):
    r"""Radial weights :math:`R_J^{lk}(|x|, w)` of one pair of degrees (equation (8) of arXiv 2006.10503).

    An MLP: Linear, LayerNorm, ReLU, Linear, LayerNorm, ReLU, Linear, with 32 hidden values. Two programs made with the
    published code use another width or activation. Messages are then computed by calling the module, which is slower.

    Args:
        num_freq: F, the number of basis kernels of the pair, ``2 min(l, k) + 1``.
        in_dim: channels in.
        out_dim: channels out.
        edge_dim: number of scalar features per edge, apart from the distance.
        mid_dim: number of values of each hidden layer.
        act_fn: the activation: a module class, or one module, which both places then share.

    Raises:
        TypeError: ``act_fn`` is neither.
        ValueError: ``edge_dim`` is not a whole number of at least 0, or another size is not a whole number of at least
            1.
    """

    def __init__(
        self,
        num_freq: int,
        in_dim: int,
        out_dim: int,
        edge_dim: int = 0,
        mid_dim: int = HIDDEN,
        act_fn: nn.Module | Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        for name, value in (("num_freq", num_freq), ("in_dim", in_dim), ("out_dim", out_dim), ("mid_dim", mid_dim)):
            check_whole_number(value, 1, name)
        check_makes_module(act_fn, "act_fn")
        check_whole_number(edge_dim, 0, "edge_dim")
        self.num_freq, self.in_dim, self.out_dim, self.edge_dim = num_freq, in_dim, out_dim, edge_dim
        self.net = nn.Sequential(
            nn.Linear(edge_dim + 1, mid_dim),
            BN(mid_dim),
            made(act_fn),
            nn.Linear(mid_dim, mid_dim),
            BN(mid_dim),
            made(act_fn),
            nn.Linear(mid_dim, num_freq * in_dim * out_dim),
        )
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Radial weights of every edge.

        Args:
            x: edge features, then the distance, ``[edges, edge_dim + 1]``.

        Returns:
            ``[edges, out_dim, 1, in_dim, 1, num_freq]``.

        Raises:
            TypeError, ValueError: ``x`` has a wrong shape, dtype or device.
        """
        check_floating_point(x, "x", self)
        if x.shape[1:] != (self.edge_dim + 1,):
            raise ValueError(f"x must have shape [edges, {self.edge_dim + 1}], got {list(x.shape)}")
        return self.net(x).view(-1, self.out_dim, 1, self.in_dim, 1, self.num_freq)

    @property
    def last(self) -> nn.Linear:
        """The last linear layer, whose rows are ordered by (channel out, channel in, J)."""
        return cast(nn.Linear, self.net[-1])

    def extra_repr(self) -> str:
        return f"num_freq={self.num_freq}, in_dim={self.in_dim}, out_dim={self.out_dim}, edge_dim={self.edge_dim}"
