"""How exact the layers are: errors by precision, depth, and scale of the positions, against float64.

python -m benchmarks.numerics        prints the tables of docs/numerics.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from equivariant_attention.fibers import Features, Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GConvSE3, GNormSE3, GSE3Res, get_basis_and_r
from equivariant_attention.modules.radial import RadialFunc
from equivariant_attention.neighbors import knn_graph
from equivariant_attention.so3 import random_rotation, wigner_d

IN, MIDDLE = Fiber(dictionary={0: 4, 1: 2}), Fiber(3, 8)
MAX_DEGREE = 2
SCALES = (1e-6, 1e-3, 1e3, 1e6)
DEPTHS = (1, 2, 4, 8)
SIZES = (1e-6, 1e3, 1e6, 1e9)
GAPS = (0.0, 1e-30, 1e-20, 1e-12)


class Precision(NamedTuple):
    """The type of parameters and features, and that of autocast, if any."""

    dtype: torch.dtype
    autocast: torch.dtype | None = None
    radial: str | None = None  # how radial weights are multiplied on a GPU, which is emulated: a key of PRODUCTS

    @property
    def eps(self) -> float:
        """Distance from 1 to the next number of the coarsest type that anything is rounded to."""
        return torch.finfo(self.autocast or self.dtype).eps

    def context(self) -> AbstractContextManager:
        """Where the model is to be called."""
        return torch.autocast("cpu", self.autocast) if self.autocast else nullcontext()


def _tf32(v: Tensor) -> Tensor:
    """Rounded to the 10 bits of TF32, to nearest."""
    return ((v.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)


def _three(a: Tensor, b: Tensor) -> Tensor:
    high, low = zip(*((_tf32(v), _tf32(v - _tf32(v))) for v in (a, b)), strict=True)
    return high[0] @ high[1] + (high[0] @ low[1] + low[0] @ high[1])


# Products of float32 matrices, summed in float32, by what torch.get_float32_matmul_precision() is.
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "highest": _three,
    "high": lambda a, b: _tf32(a) @ _tf32(b),
    "medium": lambda a, b: a.bfloat16().float() @ b.bfloat16().float(),
}


class Product(torch.autograd.Function):
    """A product of matrices that is emulated, in its derivatives too."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """``a @ b``."""
        ctx.product = product
        ctx.save_for_backward(a, b)
        return product(a, b)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, Tensor, None]:
        """Derivatives with respect to both factors."""
        a, b = ctx.saved_tensors
        return ctx.product(d, b.T), ctx.product(a.T, d), None


class EmulatedLinear(nn.Linear):
    """A layer of a radial network as kernels on a GPU compute it."""

    product = staticmethod(PRODUCTS["highest"])  # of hidden layers, whatever that is

    def forward(self, g: Tensor) -> Tensor:
        """Hidden values, or radial weights of them."""
        return Product.apply(g, self.weight.T, self.product) + self.bias


@contextmanager
def emulated(model: nn.Module, how: str | None) -> Iterator[None]:
    """A context in which the radial weights of a model are multiplied in this way, and its hidden layers as always."""
    networks = [module for module in model.modules() if isinstance(module, RadialFunc)] if how else []
    layers = [layer for network in networks for layer in network.net if isinstance(layer, nn.Linear)]
    for linear in layers:
        linear.__class__ = EmulatedLinear
    for network in networks:
        network.last.product = PRODUCTS[how]
    try:
        yield
    finally:
        for linear in layers:
            linear.__class__ = nn.Linear


PRECISIONS = {
    "float64": Precision(torch.float64),
    "float32": Precision(torch.float32),
    "bfloat16 autocast": Precision(torch.float32, torch.bfloat16),
    "float16 autocast": Precision(torch.float32, torch.float16),
}
ON_GPU = {f"'{how}'": Precision(torch.float32, radial=how) for how in PRODUCTS}


class Stack(nn.Module):
    """Attention layers with norm nonlinearities, and a convolution.

    Args:
        depth: number of attention layers.
        x_ij: of the first of them.
    """

    def __init__(self, depth: int, x_ij: str | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = [GSE3Res(IN, MIDDLE, n_heads=2, x_ij=x_ij), GNormSE3(MIDDLE, num_layers=1)]
        for _ in range(depth - 1):
            layers += [GSE3Res(MIDDLE, MIDDLE, n_heads=2), GNormSE3(MIDDLE, num_layers=1)]
        self.layers = nn.ModuleList([*layers, GConvSE3(MIDDLE, IN, self_interaction=True)])

    def forward(self, features: Features, G: Graph) -> Features:
        """Features of fiber ``IN`` to the same."""
        basis, r = get_basis_and_r(G, MAX_DEGREE, compute_gradients=True)
        for layer in self.layers:
            features = layer(features, G=G, r=r, basis=basis)
        return features


class Case(NamedTuple):
    """A model, where and on what it is called: the same numbers for every precision, all of them float32's."""

    stack: Stack
    x: Tensor
    edges: tuple[Tensor, Tensor]
    features: Features


class Errors(NamedTuple):
    """Largest errors, relative to the largest value of the same degree, or of all gradients.

    Attributes:
        value, gradient: against float64; gradients are those by parameters and features.
        equivariance: of the values, under a random rotation.
        is_finite: whether all of these are, and the gradient by positions.
    """

    value: float
    gradient: float
    equivariance: float
    is_finite: bool


def random_case(
    depth: int = 2,
    seed: int = 0,
    x_ij: str | None = None,
    scale: float = 1.0,
    size: float = 1.0,
    gap: float | None = None,
) -> Case:
    """Random weights, features and points, each with its 5 nearest neighbours.

    Args:
        depth, x_ij: of the :class:`Stack`.
        seed: of the random numbers.
        scale: what positions are multiplied by.
        size: what features are multiplied by.
        gap: distance of two of the points, at the origin; None leaves them where they are.

    Returns:
        the case.
    """
    torch.manual_seed(seed)
    stack, x = Stack(depth, x_ij), torch.randn(20, 3)
    if gap is not None:
        x[0], x[1] = 0, gap * nn.functional.normalize(x[1], dim=0)
    features = {str(d): size * torch.randn(len(x), m, 2 * d + 1) for m, d in IN.structure}
    return Case(stack, scale * x, knn_graph(x, 5).edges(), features)


def errors(case: Case, precision: Precision) -> Errors:
    """The errors of one precision."""
    rotation = random_rotation(dtype=torch.float64)
    exact, exact_gradient, _ = _evaluated(case, PRECISIONS["float64"])
    found, gradient, by_position = _evaluated(case, precision)
    turned, _, _ = _evaluated(_turned(case, rotation, precision.dtype), precision)
    expected = {d: v @ wigner_d(int(d), rotation).T for d, v in found.items()}
    return Errors(
        max(map(_relative, found.values(), exact.values())),
        _relative(gradient, exact_gradient),
        max(map(_relative, turned.values(), expected.values())),
        all(bool(v.isfinite().all()) for v in (*found.values(), gradient, by_position)),
    )


def worst(cases: Iterable[Case], precision: Precision) -> Errors:
    """The largest of the errors of several cases."""
    values, gradients, equivariances, finite = zip(*(errors(case, precision) for case in cases), strict=True)
    return Errors(max(values), max(gradients), max(equivariances), all(finite))


def _evaluated(case: Case, precision: Precision) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The output, and the gradients by parameters and features, and by positions, of a linear function of it."""
    # In place: float32 numbers survive float64 and back, and to copy the modules takes longer than to run them.
    stack = case.stack.to(precision.dtype)
    x, *values = (v.detach().to(precision.dtype).requires_grad_() for v in (case.x, *case.features.values()))
    (src, dst), features = case.edges, dict(zip(case.features, values, strict=True))
    G = Graph(src, dst, len(x))
    G.ndata["x"], G.edata["d"] = x, x[dst] - x[src]
    with precision.context(), emulated(stack, precision.radial):
        output = stack(features, G)
    generator = torch.Generator().manual_seed(0)
    by = [torch.randn(v.shape, generator=generator).to(v.dtype) for v in output.values()]
    leaves = [x, *values, *stack.parameters()]
    by_position, *gradients = torch.autograd.grad([*output.values()], leaves, by, materialize_grads=True)
    gradient = torch.cat([g.double().flatten() for g in gradients])
    return {d: v.detach().double() for d, v in output.items()}, gradient, by_position


def _turned(case: Case, rotation: Tensor, dtype: torch.dtype) -> Case:
    features = {d: (v.double() @ wigner_d(int(d), rotation).T).to(dtype) for d, v in case.features.items()}
    return case._replace(x=(case.x.double() @ rotation.T).to(dtype), features=features)


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def table(title: str, rows: Mapping[str, Mapping[str, Any]], precisions: Sequence[str]) -> str:
    """A Markdown table of errors, the worst of five random cases each.

    Args:
        title: of the first column.
        rows: label of each row, and the arguments of :func:`random_case` that it stands for.
        precisions: the columns, names in ``PRECISIONS`` or ``ON_GPU``.
    """
    lines = [f"| {title} | " + " | ".join(f"{p}: value | gradient | equivariance" for p in precisions) + " |"]
    lines.append("|---" * (1 + 3 * len(precisions)) + "|")
    for label, arguments in rows.items():
        cells = []
        for precision in precisions:
            cases = (random_case(seed=seed, **arguments) for seed in range(5))
            found = worst(cases, {**PRECISIONS, **ON_GPU}[precision])
            cells += [f"{e:.0e}" if found.is_finite else "not finite" for e in found[:3]]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    _, *inexact = PRECISIONS
    for title, name, values in (
        ("attention layers", "depth", DEPTHS),
        ("positions times", "scale", SCALES),
        ("features times", "size", SIZES),
        ("two points this far apart", "gap", GAPS),
    ):
        print(table(title, {f"{v:g}": {name: v} for v in values}, inexact), end="\n\n", flush=True)
    rows = {f"{depth}": {"depth": depth} for depth in DEPTHS}
    print(table("attention layers", rows, ["float32", *ON_GPU]), flush=True)


if __name__ == "__main__":
    as_written = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(
        "python -m benchmarks.numerics", description=__doc__, formatter_class=as_written
    ).parse_args()
    main()
