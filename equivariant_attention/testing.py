"""Is it really equivariant? A check for any callable on a graph, the library's own layers and users' models alike."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .checks import check_not_negative, check_whole_number
from .graphs import GraphLike, as_graph, graph_of_node, rebuilt, unbatch
from .plan import relative_positions
from .so3 import random_rotation, wigner_d

Output = Tensor | Mapping[str, Tensor]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
NOISE = 100  # roundings of the largest number of all degrees: a degree that has no larger one vanishes by symmetry


def equivariance_error(
    model: Callable[[Any], Output],
    G: Any,
    *,
    node_degrees: Mapping[str, int] | None = None,
    edge_degrees: Mapping[str, int] | None = None,
    output_degree: int = 0,
    output_on: str | None = None,
    reflections: bool = False,
    rotations: int = 1,
    scale: float = 0.0,
    seed: int = 0,
) -> dict[str, float]:
    r"""How far a model is from equivariance: the relative error under every transformation that it should respect.

    .. math:: \max |f(g \, x) - D(g) f(x)| \; / \; \max |f(x)|

    for a random rotation, translation and permutation of the nodes (and of the edges) within each graph, and for taking
    each graph of the batch by itself. Outputs of different degrees are compared degree by degree, and the worst counts.
    The denominator is the largest number of that degree, or of all degrees where that is below 100 roundings of the
    latter, and at least ``scale``: vectors that vanish by symmetry, as in the middle of methane, are rounding noise,
    which no model can turn. A translation moves ``ndata['x']`` and leaves ``edata['d']``: it finds models that use
    positions in another way. Symmetric graphs are where models fail first:
    :func:`~equivariant_attention.symmetric_structures.symmetric_graphs`.

    Args:
        model: any callable that takes a graph and returns a tensor, or tensors keyed by their degree as a string.
        G: a (batched) DGLGraph, :class:`~equivariant_attention.graphs.Graph` or PyTorch Geometric ``Data``, float32 or
            float64, without ties in pooling or top-k. It is not changed; the model gets copies.
        node_degrees: degrees of the fields on the nodes, such as ``{'v': 1}``. Fields that are not named are scalars;
            ``'x'`` is always a vector, and alone in being moved by a translation.
        edge_degrees: degrees of the fields on the edges; ``'d'`` is always a vector.
        output_degree: degree of the output where it is a tensor, whose last dimension then is ``2 degree + 1``; for
            scalars (degree 0) any shape.
        output_on: what the first dimension of the output counts, 'nodes', 'edges' or 'graphs'; None, found by its
            length.
        reflections: also check a random reflection. Layers that couple all degrees, as these do, are not equivariant to
            it.
        rotations: number of random rotations, of which the worst counts; some are kind to a symmetric structure.
        scale: how large the output is where it does not vanish, such as 1 for dipole moments in debye: errors are
            relative to this where the output is smaller. For outputs of one degree on symmetric graphs.
        seed: of the random transformations.

    Returns:
        the errors under ``'rotation'``, ``'translation'``, ``'permutation'``, ``'batch'`` and, if asked for,
        ``'reflection'``.

    Raises:
        KeyError: a field that is named is not on the graph.
        TypeError: the model is not callable, or returns something else.
        ValueError: a degree is not a whole number of at least 0, ``rotations`` not one of at least 1, or ``scale`` not
            a number of at least 0; a field or output has another last dimension than its degree asks for; the degrees
            of the output differ between calls; or it cannot be told what the output is on, or has another number of
            rows.
    """
    if not callable(model):
        raise TypeError(f"model must be callable, got {type(model).__name__}")
    check_whole_number(output_degree, 0, "output_degree")
    for label, degrees in (("node_degrees", node_degrees), ("edge_degrees", edge_degrees)):
        for name, degree in (degrees or {}).items():
            check_whole_number(degree, 0, f"{label}[{name!r}]")
    check_whole_number(rotations, 1, "rotations")
    check_not_negative(scale, "scale")
    degrees_of_fields = {"x": 1, **(node_degrees or {})}, {"d": 1, **(edge_degrees or {})}
    case = _Case(model, as_graph(G), *degrees_of_fields, output_degree, scale)
    generator = torch.Generator("cpu").manual_seed(seed)
    expected = case.output(case.graph)
    if output_on not in (None, "nodes", "edges", "graphs"):
        raise ValueError(f"output_on must be None, 'nodes', 'edges' or 'graphs', got {output_on!r}")
    place = case.place(expected, output_on)
    turns = random_rotation(rotations, generator=generator, dtype=torch.float64, device="cpu")
    errors = {
        "rotation": max((case.error_when_turned(expected, turn) for turn in turns), key=_nan_last),
        "translation": case.error(case.output(case.translated(generator)), expected),
    }
    permuted, order = case.permuted(generator)
    errors["permutation"] = case.error(case.output(permuted), {d: v[order[place]] for d, v in expected.items()})
    parts = [case.output(as_graph(part)) for part in unbatch(case.graph)]
    together = {d: torch.cat([part[d] for part in parts]) for d in expected} if parts else expected
    errors["batch"] = case.error(together, expected)
    if reflections:
        errors["reflection"] = case.error_when_turned(expected, -turns[0])
    return errors


def assert_equivariant(
    model: Callable[[Any], Output], G: Any, *, tolerance: float | None = None, **options: Any
) -> dict[str, float]:
    """Fail unless a model is equivariant.

    Args:
        model, G: as in :func:`equivariance_error`.
        tolerance: largest error allowed; by default 1e-5 where ``edata['d']`` is float32 and 1e-12 where it is float64.
        options: the other arguments of :func:`equivariance_error`.

    Returns:
        the errors.

    Raises:
        AssertionError: an error is above the tolerance, or not a number; it lists them all.
    """
    if tolerance is None:
        tolerance = TOLERANCE[relative_positions(as_graph(G)).dtype]
    errors = equivariance_error(model, G, **options)
    failed = [name for name, error in errors.items() if not error <= tolerance]
    if failed:
        listed = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
        raise AssertionError(f"not equivariant to {', '.join(failed)}: errors {listed}; tolerance {tolerance:.0e}")
    return errors


@dataclass
class _Case:
    """A model, a graph, and how the fields of the graph and the outputs of the model transform."""

    model: Callable[[Any], Output]
    graph: GraphLike
    node_degrees: dict[str, int]
    edge_degrees: dict[str, int]
    output_degree: int
    scale: float  # least size of numbers that errors are relative to
    degrees: set[int] = field(default_factory=set)  # of the outputs so far

    def __post_init__(self) -> None:
        for label, fields, degrees in self._fields():
            for name in sorted({*degrees} - {*fields} - {"x", "d"}):
                raise KeyError(f"no {label}[{name!r}] on this graph, only {sorted(fields)}")

    def _fields(self) -> Iterator[tuple[str, Mapping[str, Tensor], dict[str, int]]]:
        yield "ndata", self.graph.ndata, self.node_degrees
        yield "edata", self.graph.edata, self.edge_degrees

    def output(self, graph: GraphLike) -> dict[int, Tensor]:
        """The outputs by degree, from a copy of the graph that the model may write to."""
        sizes = graph.batch_num_nodes(), graph.batch_num_edges()
        ndata, edata = ({name: value.clone() for name, value in of.items()} for of in (graph.ndata, graph.edata))
        output = self.model(rebuilt(graph, *graph.edges(), ndata, edata, *sizes))
        if not isinstance(output, Tensor | Mapping):
            raise TypeError(f"model must return a tensor or a dict of tensors by degree, got {type(output).__name__}")
        by_degree = output if isinstance(output, Mapping) else {str(self.output_degree): output}
        for degree, value in by_degree.items():
            if not (isinstance(degree, str) and degree.isdecimal() and isinstance(value, Tensor) and value.dim()):
                got = f"{list(value.shape)} tensor" if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"model must return tensors of rows keyed by degrees as strings, got {degree!r}: {got}")
        if not by_degree:
            raise TypeError("model must return a tensor of at least one degree, got none")
        degrees = {int(degree) for degree in by_degree}
        self.degrees = self.degrees or degrees
        if degrees != self.degrees:
            raise ValueError(f"the output must have the same degrees always, got {self.degrees}, then {degrees}")
        return {int(degree): value.detach() for degree, value in by_degree.items()}

    def place(self, output: dict[int, Tensor], given: str | None) -> str:
        """What the rows of the output are, as given or told by their number."""
        rows, graph = {value.shape[0] for value in output.values()}, self.graph
        counts = {"nodes": graph.num_nodes(), "edges": graph.num_edges(), "graphs": graph.batch_size}
        places = [given] if given else [name for name, count in counts.items() if rows == {count}]
        if len(places) != 1:
            raise ValueError(f"output_on must be given: the output has {rows} rows, and the graph {counts}")
        if rows != {counts[places[0]]}:
            raise ValueError(f"the output must have {counts[places[0]]} rows, one for each of {places[0]}, got {rows}")
        return places[0]

    def rotated(self, rotation: Tensor) -> GraphLike:
        """The graph with every field turned according to its degree."""
        fields = [
            {name: _turn(value, degrees.get(name, 0), rotation, f"{label}[{name!r}]") for name, value in fields.items()}
            for label, fields, degrees in self._fields()
        ]
        return self._with(*self.graph.edges(), *fields)

    def turned(self, output: dict[int, Tensor], rotation: Tensor) -> dict[int, Tensor]:
        """The outputs turned according to their degrees."""
        return {degree: _turn(value, degree, rotation, "the output") for degree, value in output.items()}

    def translated(self, generator: torch.Generator) -> GraphLike:
        """The graph with all positions moved by one vector."""
        ndata = dict(self.graph.ndata)
        if "x" in ndata:
            ndata["x"] = ndata["x"] + torch.randn(3, generator=generator, device="cpu").to(ndata["x"])
        return self._with(*self.graph.edges(), ndata, dict(self.graph.edata))

    def permuted(self, generator: torch.Generator) -> tuple[GraphLike, dict[str, Tensor]]:
        """The graph with nodes and edges shuffled within each graph, and the old row that each new row was."""
        graph = self.graph
        node_graph = graph_of_node(graph)
        src, dst = (ends.long() for ends in graph.edges())
        nodes, edges = _shuffled(node_graph, generator), _shuffled(node_graph[dst], generator)
        new_number = torch.empty_like(nodes).scatter_(0, nodes, torch.arange(len(nodes), device=nodes.device))
        shuffled = self._with(
            new_number[src[edges]],
            new_number[dst[edges]],
            {name: value[nodes] for name, value in graph.ndata.items()},
            {name: value[edges] for name, value in graph.edata.items()},
        )
        graphs = torch.arange(graph.batch_size, device=nodes.device)
        return shuffled, {"nodes": nodes, "edges": edges, "graphs": graphs}

    def _with(self, src: Tensor, dst: Tensor, ndata: dict[str, Tensor], edata: dict[str, Tensor]) -> GraphLike:
        sizes = self.graph.batch_num_nodes(), self.graph.batch_num_edges()
        return as_graph(rebuilt(self.graph, src, dst, ndata, edata, *sizes))

    def error_when_turned(self, expected: dict[int, Tensor], rotation: Tensor) -> float:
        """How far the outputs of the turned graph are from the turned outputs."""
        return self.error(self.output(self.rotated(rotation)), self.turned(expected, rotation))

    def error(self, found: dict[int, Tensor], expected: dict[int, Tensor]) -> float:
        """The worst relative error of any degree; infinite where shapes differ, not a number where an output is not."""
        largest = max(map(_largest, expected.values()))
        errors = (_relative_error(found[d], value, self._size(value, largest)) for d, value in expected.items())
        return max(errors, key=_nan_last)

    def _size(self, value: Tensor, largest: float) -> float:
        """What errors of one degree are relative to, where this is the largest number of all."""
        size = _largest(value)
        if size < NOISE * torch.finfo(value.dtype).eps * largest:
            size = largest
        return max(size, self.scale)


def _nan_last(error: float) -> float:
    return error if error == error else float("inf")


def _relative_error(found: Tensor, expected: Tensor, size: float) -> float:
    if found.shape != expected.shape:
        return float("inf")
    worst = _largest(found - expected)
    if not worst:
        return 0.0
    return worst / size if size else float("inf")


def _largest(value: Tensor) -> float:
    return float(value.abs().max()) if value.numel() else 0.0


def _turn(value: Tensor, degree: int, rotation: Tensor, name: str) -> Tensor:
    if degree == 0:
        return value
    if value.shape[-1] != 2 * degree + 1:
        got = list(value.shape)
        raise ValueError(f"{name} must have last dimension {2 * degree + 1} for degree {degree}, got {got}")
    return value @ wigner_d(degree, rotation).T.to(value)


def _shuffled(groups: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of the rows that keeps each (sorted) group in its place."""
    order = torch.randperm(len(groups), generator=generator, device="cpu").to(groups.device)
    return order[torch.argsort(groups[order], stable=True)]
