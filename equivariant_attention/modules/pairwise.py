"""The convolution kernel between one pair of degrees: :class:`PairwiseConv`."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..basis_signs import OURS, warn_of_unknown_signs
from ..checks import check_whole_number
from ..contraction.inputs import checked_tensor
from ..contraction.radial import HIDDEN, Anatomy
from ..modules.layer_norm import LayerNorm
from ..modules.radial import BN, RadialFunc

_HIDDEN_LAYER = (nn.Linear, BN, LayerNorm, nn.ReLU)


class PairwiseConv(nn.Module):
    r"""Kernel from degree k to degree l along every edge (equation (8) of arXiv 2006.10503).

    .. math:: W^{lk}(x) = \sum_{J=|l-k|}^{l+k} R_J^{lk}(|x|, w) \, W_J^{lk}(x)

    The module holds the parameters of the pair, its radial network ``rp``. Layers multiply by the kernel through
    :func:`equivariant_attention.contraction.contract`, whose backends need not form it; ``forward`` does form it.

    Args:
        degree_in: k.
        nc_in: channels of degree k.
        degree_out: l.
        nc_out: channels of degree l.
        edge_dim: number of scalar features per edge, apart from the distance.
        mid_dim, act_fn: as in :class:`RadialFunc`.

    Raises:
        ValueError: a degree or ``edge_dim`` is not a whole number of at least 0, or a number of channels is not a whole
            number of at least 1.
    """

    def __init__(
        self,
        degree_in: int,
        nc_in: int,
        degree_out: int,
        nc_out: int,
        edge_dim: int = 0,
        mid_dim: int = HIDDEN,
        act_fn: nn.Module | Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("degree_in", degree_in, 0),
            ("nc_in", nc_in, 1),
            ("degree_out", degree_out, 0),
            ("nc_out", nc_out, 1),
        ):
            check_whole_number(value, least, name)
        self.degree_in, self.degree_out = degree_in, degree_out
        self.nc_in, self.nc_out = nc_in, nc_out
        self.num_freq = 2 * min(degree_in, degree_out) + 1
        self.d_out = 2 * degree_out + 1
        self.edge_dim = edge_dim
        self.rp = RadialFunc(self.num_freq, nc_in, nc_out, edge_dim, mid_dim, act_fn)

    anatomy: Anatomy
    forms_kernels = True
    _version = OURS  # PyTorch writes it into the metadata of state dicts

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, metadata: dict[str, Any], *rest: Any
    ) -> None:
        has_signs = self.degree_in or self.degree_out
        if has_signs and metadata.get("version") != OURS and f"{prefix}rp.net.6.weight" in state_dict:
            warn_of_unknown_signs()
        super()._load_from_state_dict(state_dict, prefix, metadata, *rest)

    def forward(self, feat: Tensor, basis: Mapping[str, Tensor]) -> Tensor:
        """The kernel of every edge.

        Args:
            feat: edge features, then the distance, ``[edges, edge_dim + 1]``.
            basis: from :func:`~equivariant_attention.basis.get_basis_and_r`.

        Returns:
            ``[edges, nc_out (2l+1), nc_in (2k+1)]``.

        Raises:
            TypeError, ValueError: ``feat`` has a wrong shape, dtype or device; or the basis lacks the pair of degrees
                or belongs to other edges.
        """
        R = self.rp(feat)
        kernel = (R * checked_tensor(basis, self.degree_in, self.degree_out, R.shape[0])).sum(-1)
        return kernel.flatten(3, 4).flatten(1, 2)

    def radial_weights(self, scalars: Tensor) -> Tensor:
        """The output of the radial network, ``[edges, nc_out x nc_in x F]``; ``scalars`` is ``feat`` of ``forward``."""
        return self.rp(scalars).flatten(1)

    def radial_modules(self) -> tuple[nn.Module, ...]:
        """The modules of the kernel, in the order of :attr:`anatomy`; raises an error if they are not those."""
        rp: Any = self._modules["rp"]
        net = rp._modules["net"]
        a, b, c, d, e, f, g = net._modules.values()
        return self, rp, net, a, b, b._modules["bn"], c, d, e, e._modules["bn"], f, g


PairwiseConv.anatomy = Anatomy(
    names=("", ".rp", ".rp.net", *(f".rp.net.{i}" for i in ("0", "1", "1.bn", "2", "3", "4", "4.bn", "5", "6"))),
    classes=(PairwiseConv, RadialFunc, nn.Sequential, *_HIDDEN_LAYER, *_HIDDEN_LAYER, nn.Linear),
    linears=(3, 7, 11),
    norms=(5, 9),
    has_bias=True,
)
