"""Multi-head attention over the incoming edges of each node: :class:`GMABSE3`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..checks import check_alike, check_features, check_whole_number
from ..contraction import operators_for
from ..envelope import edge_envelope
from ..fibers import Features, Fiber, by_degree, check_heads, fiber2head
from ..graphs import as_graph, edges_on
from ..native import attention
from ..native.operation import Tensors
from ..plain_modules import check_hooks
from ..segments import segment_softmax, segment_sum


class GMABSE3(nn.Module):
    r"""Multi-head attention with keys and values on the edges (section 3.2 of arXiv 2006.10503).

    .. math:: f_i \leftarrow \sum_{j \in N_i} \alpha_{ij} v_{ij}, \qquad
              \alpha_{ij} = \frac{\exp \langle q_i, k_{ij} \rangle / \sqrt{n}}
                                 {\sum_{j'} \exp \langle q_i, k_{ij'} \rangle / \sqrt{n}}

    for each head. A head has an equal share of the channels of every degree, and the inner product runs over these
    channels and all orders; n is ``n_features`` of the whole key fiber. With an envelope u on the edges (see
    :func:`~equivariant_attention.envelope.polynomial_envelope`), both the exponentials and the values are multiplied by
    it:

    .. math:: \alpha_{ij} = u_{ij} \frac{u_{ij} \exp \langle q_i, k_{ij} \rangle / \sqrt{n}}
                                 {\sum_{j'} u_{ij'} \exp \langle q_i, k_{ij'} \rangle / \sqrt{n}}

    Args:
        f_value: fiber of the values.
        f_key: fiber of the keys and queries.
        n_heads: number of heads.

    Raises:
        TypeError: a fiber is not a Fiber.
        ValueError: ``n_heads`` does not divide the channels of every degree.
    """

    def __init__(self, f_value: Fiber, f_key: Fiber, n_heads: int) -> None:
        super().__init__()
        check_whole_number(n_heads, 1, "n_heads")
        check_heads(f_value, n_heads, "f_value")
        check_heads(f_key, n_heads, "f_key")
        self.f_value, self.f_key, self.n_heads = f_value, f_key, n_heads

    def forward(
        self,
        v: Features,
        k: Features | None = None,
        q: Features | None = None,
        G: Any = None,
        return_attention: bool = False,
        **kwargs,
    ) -> Features | tuple[Features, Tensor]:
        r"""The values, summed at each node with its attention weights.

        Args:
            v: values, ``{degree: [edges, channels, 2 degree + 1]}`` of fiber ``f_value``.
            k: keys, the same of fiber ``f_key``.
            q: queries, ``{degree: [nodes, channels, 2 degree + 1]}`` of fiber ``f_key``.
            G: the graph, with ``edata['envelope']``, ``[edges, 1]``, if there is an envelope.
            return_attention: also return the attention weights.

        Returns:
            ``{degree: [nodes, channels, 2 degree + 1]}`` of fiber ``f_value``, 0 at nodes without incoming edges; and
            with ``return_attention`` the weights :math:`\alpha`, ``[edges, heads]``, in float32 or float64.

        Raises:
            TypeError, ValueError: values, keys, queries or the envelope are not those of the fibers and the graph, or
                differ in dtype or device.
        """
        check_hooks(self)
        G, v, k, q = as_graph(G), by_degree(v, "v"), by_degree(k, "k"), by_degree(q, "q")
        check_features(v, self.f_value, G.num_edges(), "v")
        check_features(k, self.f_key, G.num_edges(), "k")
        check_features(q, self.f_key, G.num_nodes(), "q")
        assert k is not None  # check_features has refused None
        assert q is not None
        first, like = str(self.f_key.min_degree), v[str(self.f_value.min_degree)]
        check_alike(k[first], f"k['{first}']", like, "v")
        check_alike(q[first], f"q['{first}']", like, "v")
        _, dst = edges_on(G, like.device)
        envelope = edge_envelope(G)
        degrees, key_degrees = ([str(d) for d in f.degrees] for f in (self.f_value, self.f_key))
        tensors = [*(v[d] for d in degrees), *(k[d] for d in key_degrees), *(q[d] for d in key_degrees)]
        attend = partial(self._attend, G.num_nodes())
        # Weights that are returned may get hooks, and derivatives flow through them: C++ never hands them to autograd.
        others = [dst] if envelope is None else [dst, envelope]
        operators = None if return_attention else operators_for(attention, tensors, others)
        if operators:
            shape = attention.Shape(
                num_nodes=G.num_nodes(),
                n_heads=self.n_heads,
                scale=self.scale,
                num_values=len(degrees),
                num_keys=len(key_degrees),
            )
            envelope, dst = None if envelope is None else envelope.to(like.dtype), dst.long()
            values = operators.attention(shape, partial(self.on_tensors, G.num_nodes()))([*tensors, envelope, dst])
            return dict(zip(degrees, values, strict=True))
        values, weights = attend([*tensors, envelope, dst])
        output = dict(zip(degrees, values, strict=True))
        return (output, weights) if return_attention else output

    @property
    def scale(self) -> float:
        """What the inner products of queries and keys are multiplied by."""
        return self.f_key.n_features**-0.5

    def on_tensors(self, num_nodes: int, tensors: Tensors) -> list[Tensor]:
        """The output in PyTorch, from tensors that are known to be right.

        Args:
            num_nodes: the number of nodes.
            tensors: values, keys and queries, degree by degree, the envelope or None, and the destination of each edge.

        Returns:
            ``[nodes, channels, 2 degree + 1]`` of every degree of the values.
        """
        return self._attend(num_nodes, tensors)[0]

    def _attend(self, num_nodes: int, tensors: Tensors) -> tuple[list[Tensor], Tensor]:
        """The output and the attention weights, from the tensors of :meth:`on_tensors`."""
        v, k = len(self.f_value.degrees), len(self.f_key.degrees)
        values, (envelope, dst) = tensors[:v], tensors[v + 2 * k :]
        keys, queries = (self._per_head(part) for part in (tensors[v : v + k], tensors[v + k : v + 2 * k]))
        arriving = queries.index_select(0, dst)  # its backward pass is twice as fast as that of queries[dst]
        logits = (keys * arriving).sum(-1) / self.f_key.n_features**0.5
        weights = segment_softmax(logits, dst, num_nodes, envelope)
        output = []
        for value in values:
            weighted = weights.to(value.dtype)[:, :, None, None] * value.unflatten(1, (self.n_heads, -1))
            output.append(segment_sum(weighted.flatten(1, 2), dst, num_nodes))
        return output, weights

    def _per_head(self, tensors: Sequence[Tensor]) -> Tensor:
        features = dict(zip(map(str, self.f_key.degrees), tensors, strict=True))
        return fiber2head(features, self.n_heads, self.f_key, squeeze=True)

    def extra_repr(self) -> str:
        return f"f_value={self.f_value}, f_key={self.f_key}, n_heads={self.n_heads}"
