"""Attentive self-interaction, :class:`GAttentiveSelfInt`: channels mixed with weights made from the features."""

import torch
from torch import Tensor, nn

from ..checks import check_degrees, check_features
from ..fibers import Features, Fiber, by_degree
from ..modules.layer_norm import LayerNorm
from ..modules.linear import mixed
from ..plain_modules import check_hooks
from ..printing import OneLine

LARGEST_PRODUCT = 1e12  # of the inner products that LayerNorm sees


class GAttentiveSelfInt(OneLine):
    r"""Mix the channels of each degree with weights that depend on the features (section 3.3 of arXiv 2006.10503).

    .. math:: f^l_{c'} \leftarrow \sum_c w^l_{c'c} f^l_c, \qquad
              w^l = \mathrm{softmax}_c \, \mathrm{MLP}\big( \langle f^l_a, f^l_b \rangle_{ab} \big)

    The MLP is LayerNorm, LeakyReLU, Linear. It sees all ``m_in^2`` inner products of the channels of one degree. The
    published code clamps the absolute value of each product to at least 1e-12. Here products stay as they are: in
    float32 the results are the same, and a product that symmetry makes zero, whose sign is rounding noise, keeps its
    derivative.

    Args:
        f_in: fiber of the input.
        f_out: fiber of the output; its degrees are among those of ``f_in``.

    Raises:
        ValueError: ``f_out`` has a degree that ``f_in`` lacks.
    """

    def __init__(self, f_in: Fiber, f_out: Fiber) -> None:
        super().__init__()
        check_degrees(f_in, f_out)
        self.f_in, self.f_out = f_in, f_out
        self.transform = nn.ModuleDict({str(d): _weight_network(f_in.dict[d], m) for m, d in f_out.structure})

    def forward(self, features: Features, **kwargs) -> Features:
        """Mix the channels.

        Args:
            features: of fiber ``f_in``, ``{degree: [nodes, m_in, 2 degree + 1]}``.

        Returns:
            ``{degree: [nodes, m_out, 2 degree + 1]}`` of fiber ``f_out``.

        Raises:
            TypeError, ValueError: ``features`` is not of fiber ``f_in`` or of the layer's dtype.
        """
        check_hooks(self, "transform")
        features = by_degree(features)
        check_features(features, self.f_in, layer=self)
        output = {}
        for degree, network in self.transform.items():
            value = features[degree]
            weights = network(_inner_products(value)).unflatten(-1, (-1, value.shape[1])).softmax(dim=-1)
            output[degree] = mixed(weights.to(torch.promote_types(weights.dtype, torch.float32)), value)
        return output

    def extra_repr(self) -> str:
        return f"f_in={self.f_in}, f_out={self.f_out}"


def _weight_network(m_in: int, m_out: int) -> nn.Sequential:
    linear = nn.Linear(m_in**2, m_out * m_in)
    nn.init.kaiming_uniform_(linear.weight)
    return nn.Sequential(LayerNorm(m_in**2), nn.LeakyReLU(), linear)


def _inner_products(value: Tensor) -> Tensor:
    value = value.to(torch.promote_types(value.dtype, torch.float32))
    # LayerNorm does not change if all products are scaled by the same factor, but it squares them, which overflows for
    # large products in float32. No product is larger than the largest squared norm of a channel.
    # (Without keepdim, PyTorch 2.11 compiles the norm of a single component to another shape.)
    largest = torch.linalg.vector_norm(value.detach(), dim=-1, keepdim=True).amax(-2, keepdim=True)
    value = value / (largest / LARGEST_PRODUCT**0.5).clamp_min(1)
    return mixed(value, value.mT).flatten(1)
