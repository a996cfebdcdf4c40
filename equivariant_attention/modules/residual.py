"""The SE(3)-Transformer layer, :class:`GSE3Res`: attention, skip connection and self-interaction."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from ..checks import check_positive, with_three_dimensions
from ..contraction.convolution import pairwise
from ..contraction.radial import HIDDEN
from ..fibers import Features, Fiber, by_degree, check_fiber
from ..modules.attention import GMABSE3
from ..modules.combine import GCat, GSum
from ..modules.convolution import GConvSE3Partial, attended_together, called_together
from ..modules.linear import G1x1SE3, mixed_without_joining
from ..modules.self_interaction import GAttentiveSelfInt
from ..plain_modules import check_hooks, has_hooks_of_all, is_plain
from ..printing import OneLine


class GSE3Res(OneLine):
    r"""SE(3)-Transformer layer (section 3.2 of arXiv 2006.10503).

    .. math:: f_i \leftarrow \mathrm{project} \Big( \sum_{j \in N_i} \alpha_{ij} W_V(x_i - x_j) f_j \Vert f_i \Big),
              \quad \alpha_{ij} = \mathrm{softmax}_j \langle W_Q f_i, W_K(x_i - x_j) f_j \rangle

    where :math:`\Vert` concatenates channels. Values have the degrees of ``f_out``, with ``floor(m / div)`` channels
    each. Keys and queries have as many channels, but only those degrees that ``f_in`` has too.

    Args:
        f_in: fiber of the input.
        f_out: fiber of the output (for ``skip=None`` the output has the fiber of the values).
        edge_dim: number of scalar features ``edata['w']`` per edge.
        div: what the channels of ``f_out`` are divided by to give those of keys and values.
        n_heads: number of attention heads.
        learnable_skip: whether the matrices of the 1x1 projection require gradients.
        skip: the skip connection: 'cat', the attention output and the input are concatenated, then projected; 'sum',
            the attention output is projected, then the input is added, padded with zero channels; None, there is none,
            and the attention output is returned.
        selfint: the projection after 'cat': '1x1' (:class:`G1x1SE3`) or 'att' (:class:`GAttentiveSelfInt`).
        x_ij: as in :class:`GConvSE3Partial`.
        mid_dim, act_fn: as in :class:`RadialFunc`.
        f_edge: as in :class:`GConvSE3Partial`.

    Attributes:
        f_mid_out: fiber of the values.
        f_mid_in: fiber of the keys and queries.

    Raises:
        ValueError: an option has another value; ``div`` leaves a degree without channels; ``n_heads`` does not divide
            the channels; ``f_in`` and ``f_out`` share no degree; or, for ``skip='sum'``, the input has a degree or
            more channels than the output.
    """

    def __init__(
        self,
        f_in: Fiber,
        f_out: Fiber,
        edge_dim: int = 0,
        div: float = 4,
        n_heads: int = 1,
        learnable_skip: bool = True,
        skip: str | None = "cat",
        selfint: str = "1x1",
        x_ij: str | None = None,
        mid_dim: int = HIDDEN,
        act_fn: nn.Module | Callable[[], nn.Module] = nn.ReLU,
        f_edge: Fiber | None = None,
    ) -> None:
        super().__init__()
        if skip not in ("cat", "sum", None):
            raise ValueError(f"skip must be 'cat', 'sum' or None, got {skip!r}")
        if selfint not in ("1x1", "att"):
            raise ValueError(f"selfint must be '1x1' or 'att', got {selfint!r}")
        self.f_in, self.f_out, self.skip, self.selfint = f_in, f_out, skip, selfint
        self.edge_dim, self.div, self.n_heads = edge_dim, div, n_heads
        self.f_mid_out = f_value = _divided(f_out, div)
        self.f_mid_in = f_key = _shared(f_value, f_in)
        to = partial(GConvSE3Partial, f_in, edge_dim=edge_dim, x_ij=x_ij, mid_dim=mid_dim, act_fn=act_fn, f_edge=f_edge)
        self.GMAB = nn.ModuleDict(
            {
                "v": to(f_value),
                "k": to(f_key),
                "q": G1x1SE3(f_in, f_key),
                "attn": GMABSE3(f_value, f_key, n_heads=n_heads),
            }
        )
        self.convolution = pairwise(self.GMAB["v"].f_sent, (f_value, f_key))  # of values and keys together
        self.project: nn.Module
        if skip == "cat":
            self.cat = GCat(f_value, f_in)
            if selfint == "att":
                self.project = GAttentiveSelfInt(self.cat.f_out, f_out)
            else:
                self.project = G1x1SE3(self.cat.f_out, f_out, learnable=learnable_skip)
        elif skip == "sum":
            _check_sum(f_in, f_out)
            self.project = G1x1SE3(f_value, f_out, learnable=learnable_skip)
            self.add = GSum(f_out, f_in)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for degree, m in self.f_mid_out.dict.items():
            name = f"{prefix}project.transform.{degree}"
            expected, shape = [self.f_out.dict[degree], m], list(getattr(state_dict.get(name), "shape", ()))
            if self.skip == "cat" and degree in self.f_in.dict and shape == expected:
                *_, errors = rest
                errors.append(
                    f"{name} has shape {shape}, as in the first generation of the published code, before 2021-01-26, "
                    "which added the input and did not concatenate it: make the layer with skip='sum'"
                )
                break
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(
        self,
        features: Features,
        G: Any = None,
        r: Tensor | None = None,
        basis: Mapping[str, Tensor] | None = None,
        return_attention: bool = False,
        edge_features: Features | None = None,
        **kwargs,
    ) -> Features | tuple[Features, Tensor]:
        """New node features.

        Args:
            features: of fiber ``f_in``, ``{degree: [nodes, channels, 2 degree + 1]}``; degree 0 may be
                ``[nodes, channels]``.
            G: graph with ``edata['d']``, ``edata['w']`` if ``edge_dim`` is not 0, and ``edata['envelope']``,
                ``[edges, 1]``, if there is an envelope.
            r, basis: from :func:`~equivariant_attention.basis.get_basis_and_r`.
            return_attention: also return the attention weights.
            edge_features: as of :class:`GConvSE3Partial`.

        Returns:
            ``{degree: [nodes, channels, 2 degree + 1]}`` of fiber ``f_out``; with ``return_attention`` also the
            attention weights, ``[edges, heads]``.

        Raises:
            TypeError, ValueError: features, edge features, distances or basis are not those of the layer and the graph.
        """
        check_hooks(self, "GMAB")
        features = with_three_dimensions(by_degree(features))
        sent = self.convolution, [self.GMAB["v"], self.GMAB["k"]], features, G, r, basis, edge_features
        q, attention = self.GMAB["q"](features), cast(Tensor, None)
        output = None if return_attention else attended_together(self.GMAB["attn"], q, *sent)
        if output is None:
            v, k = called_together(*sent)
            attended = self.GMAB["attn"](v, k=k, q=q, G=G, return_attention=return_attention)
            output, attention = attended if return_attention else (attended, attention)
        if self.skip == "cat":
            output = self._joined_and_projected(output, features)
        elif self.skip == "sum":
            output = self.add(self.project(output), features)
        return (output, attention) if return_attention else output

    def _joined_and_projected(self, output: Features, features: Features) -> Features:
        if is_plain(self.cat, GCat) and is_plain(self.project, G1x1SE3) and not has_hooks_of_all():
            check_hooks(self.project, "transform")
            projected = mixed_without_joining(cast(G1x1SE3, self.project).transform, output, features)
            if projected is not None:
                return projected
        return self.project(self.cat(output, features))

    def extra_repr(self) -> str:
        options = f"edge_dim={self.edge_dim}, div={self.div}, n_heads={self.n_heads}, x_ij={self.GMAB['v'].x_ij!r}"
        return f"f_in={self.f_in}, f_out={self.f_out}, {options}, skip={self.skip!r}, selfint={self.selfint!r}"


def _divided(f_out: Fiber, div: float) -> Fiber:
    check_fiber(f_out, "f_out")
    check_positive(div, "div")
    channels = {degree: int(m // div) for degree, m in f_out.dict.items()}
    for degree, m in f_out.dict.items():
        if channels[degree] < 1:
            raise ValueError(f"div must leave every degree a channel: div={div} leaves none of {m} of degree {degree}")
    return Fiber(dictionary=channels)


def _shared(f_value: Fiber, f_in: Fiber) -> Fiber:
    check_fiber(f_in, "f_in")
    shared = {degree: m for degree, m in f_value.dict.items() if degree in f_in.dict}
    if not shared:
        raise ValueError(f"f_in and f_out must share a degree for keys and queries, got {f_in} and {f_value}")
    return Fiber(dictionary=shared)


def _check_sum(f_in: Fiber, f_out: Fiber) -> None:
    for degree, m in f_in.dict.items():
        if m > f_out.dict.get(degree, 0):
            raise ValueError(
                f"skip='sum' needs an output with all channels of the input: degree {degree} has {m} channels in f_in, "
                f"{f_out.dict.get(degree, 0)} in f_out"
            )
