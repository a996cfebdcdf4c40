"""Import this, and PyTorch's ``FlopCounterMode`` counts what runs in C++, too.

>>> import equivariant_attention.flops
>>> with torch.utils.flop_counter.FlopCounterMode() as counter:
...     model(G, features)

Counted is what PyTorch counts of its own operators: two for each product of numbers that is added to a sum. So norms
count nothing. Derivatives count twice what values do, whichever of them are needed: a product has two. Second ones
count twice that. What is computed again in the backward pass is not counted.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .contraction import cost, cpp
from .contraction.convolution import Convolution
from .contraction.radial import HIDDEN
from .native.attention import Shape
from .native.operation import split
from .native.operators import OPERATORS, with_none


def _linear(lists: int, tensors: Sequence[Tensor], present: Sequence[bool]) -> int:
    """Products of matrices and features, which make up so many lists."""
    weights, values, *_ = split(with_none(tensors, present), lists)
    return 2 * sum(v.shape[0] * v.shape[2] * W.numel() for W, v in zip(weights, values, strict=True))


def _attention(tensors: Sequence[Tensor], present: Sequence[bool], *shape: Any) -> int:
    """Products of queries and keys, and of weights and values, on every edge."""
    values, keys, *_ = Shape(*shape).split(with_none(tensors, present))
    return 2 * sum(v.numel() for v in (*values, *keys))


def _messages(
    tensors: Sequence[Tensor],
    present: Sequence[bool],
    backend: str,
    text: str,
    sizes: Sequence[int],
    pairs_share: bool,
) -> int:
    problem = cpp.Problem.registered(backend, text, tuple(sizes), pairs_share)
    t, convolution = problem.like(with_none(tensors, present)), problem.convolution
    num_pairs = t.graph[2].shape[0] if pairs_share else 0
    chosen = backend or cost.in_cpp(convolution, t.num_nodes, t.num_edges, num_pairs)
    count = _edge_first if chosen == "cpp" else _node_first
    return 2 * count(convolution, t, t.num_edges - num_pairs)


def _edge_first(convolution: Convolution, t: cpp.Tensors, rows: int) -> int:
    """Radial weights of ``rows`` edges; features are turned into the frames of all edges, mixed and turned back."""
    radial = mixing = 0
    for ends in convolution.ends:
        radial += HIDDEN * ends.channels_in * ends.channels_out * ends.num_freq
        mixing += ends.channels_in * ends.channels_out * (2 * ends.num_freq - 1)
    turned = _turns(convolution.features) + _turns(convolution.messages)
    return rows * (_hidden(convolution, t) + radial) + t.num_edges * (mixing + turned)


def _node_first(convolution: Convolution, t: cpp.Tensors, rows: int) -> int:
    """Products of weights and features of nodes; with hidden values and frames on edges, and turned back there."""
    on_nodes = on_edges = 0
    for ends in convolution.ends:
        numbers = ends.channels_out * ends.num_freq * (2 * ends.degree_in + 1)
        on_nodes += HIDDEN * ends.channels_in * numbers
        on_edges += HIDDEN * numbers + ends.channels_out * (2 * ends.num_freq - 1) * (2 * ends.degree_in + 1)
    on_edges += _hidden(convolution, t) + _turns(convolution.messages)
    return t.num_nodes * on_nodes + t.num_edges * on_edges


def _hidden(convolution: Convolution, t: cpp.Tensors) -> int:
    """The hidden layers of all radial networks, on an edge."""
    return len(convolution.rows) * HIDDEN * (t.scalars.shape[1] + HIDDEN)


def _turns(parts: Sequence[tuple[int, int]]) -> int:
    """Features of these degrees and channels turned by matrices; of degree 0 nothing turns."""
    return sum(channels * (2 * degree + 1) ** 2 for degree, channels in parts if degree)


def _register(name: str, formula: Callable[..., int]) -> None:
    def values(*args: Any, **kwargs: Any) -> int:
        return formula(*args)

    def gradient(tensors: Any, present: Any, gradients: Any, needed: Any, *rest: Any, **kwargs: Any) -> int:
        return 2 * formula(tensors, present, *rest)

    def second(
        tensors: Any, present: Any, gradients: Any, tangents: Any, moved: Any, needed: Any, *rest: Any, **kwargs: Any
    ) -> int:
        return 4 * formula(tensors, present, *rest)

    for suffix, count in (("", values), ("_gradient", gradient), ("_second", second)):
        register_flop_formula(getattr(OPERATORS, f"{name}{suffix}"), get_raw=True)(count)


_register("linear", partial(_linear, 2))
_register("joined", partial(_linear, 3))
_register("attention", _attention)
_register("messages", _messages)
