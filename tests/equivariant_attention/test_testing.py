import math

import pytest
import torch

from equivariant_attention.graphs import Graph, as_graph
from equivariant_attention.testing import assert_equivariant, equivariance_error
from tests.cases import random_graph


def distances(G):
    return as_graph(G).edata["d"].norm(dim=-1)


def relative_positions(G):
    graph = as_graph(G)
    src, dst = graph.edges()
    x = graph.ndata["x"].reshape(-1, 3)
    return x[dst] - x[src]


def test_equivariant_callables_pass(kind, dtype):
    G = random_graph(dtype, kind=kind)
    errors = assert_equivariant(distances, G)
    assert set(errors) == {"rotation", "translation", "permutation", "batch"}
    assert_equivariant(relative_positions, G, output_degree=1, reflections=True)
    assert_equivariant(lambda G: {"0": distances(G).unsqueeze(-1), "1": as_graph(G).edata["d"]}, G)


def test_each_kind_of_failure_is_found():
    G = random_graph()
    n = G.num_nodes()
    broken = {
        "rotation": lambda G: as_graph(G).edata["d"][:, 0],
        "translation": lambda G: as_graph(G).ndata["x"].norm(dim=-1),
        "permutation": lambda G: distances(G) * torch.arange(as_graph(G).num_edges()),
        "batch": lambda G: distances(G) / as_graph(G).num_nodes() * n,
    }
    for name, model in broken.items():
        assert equivariance_error(model, G)[name] > 1e-3
        with pytest.raises(AssertionError, match=f"not equivariant to .*{name}"):
            assert_equivariant(model, G)


def test_pseudovectors_fail_under_reflection():
    G = random_graph()
    G.ndata["v"] = torch.randn(G.num_nodes(), 1, 3, dtype=torch.float64)

    def cross(G):
        src, _ = G.edges()
        return torch.linalg.cross(G.edata["d"], G.ndata["v"][src].squeeze(1))

    assert_equivariant(cross, G, node_degrees={"v": 1}, output_degree=1)
    with pytest.raises(AssertionError, match="not equivariant to reflection"):
        assert_equivariant(cross, G, node_degrees={"v": 1}, output_degree=1, reflections=True)


def test_a_wrong_declaration_is_found():
    """A vector that is called a scalar does not stay as it is."""
    G = random_graph()
    with pytest.raises(AssertionError, match="rotation"):
        assert_equivariant(lambda G: G.edata["d"], G)


def test_nan_fails():
    G = random_graph()
    with pytest.raises(AssertionError, match="nan"):
        assert_equivariant(lambda G: distances(G) * math.nan, G)


def test_a_shape_that_changes_fails():
    G = random_graph()
    assert equivariance_error(lambda G: distances(G).reshape(-1, 1).expand(-1, G.batch_size), G)["batch"] == math.inf


def test_the_graph_is_not_changed():
    G = random_graph()
    before = {name: value.clone() for name, value in G.ndata.items()}

    def careless(G):
        G.ndata["x"].mul_(2)
        G.ndata["x"] = G.ndata["x"] + 1
        return distances(G)

    equivariance_error(careless, G)
    assert all(torch.equal(G.ndata[name], value) for name, value in before.items())


def test_what_the_output_is_on():
    assert_equivariant(lambda G: torch.ones(G.batch_size), random_graph())
    square = Graph([0, 1, 2], [1, 2, 0])
    square.edata["d"] = torch.randn(3, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="output_on must be given"):
        equivariance_error(distances, square)
    assert_equivariant(distances, square, output_on="edges")


def test_bad_declarations_are_refused():
    G = random_graph()
    with pytest.raises(ValueError, match="output_on must be None, 'nodes', 'edges' or 'graphs', got 'atoms'"):
        equivariance_error(distances, G, output_on="atoms")
    with pytest.raises(TypeError, match="model must return a tensor or a dict of tensors by degree, got tuple"):
        equivariance_error(lambda G: (distances(G),), G)
    with pytest.raises(KeyError, match="no ndata"):
        equivariance_error(distances, G, node_degrees={"u": 1})
    with pytest.raises(ValueError, match="must have last dimension 5 for degree 2"):
        equivariance_error(distances, G, edge_degrees={"d": 2})
    with pytest.raises(ValueError, match="the output must have last dimension 3 for degree 1"):
        equivariance_error(distances, G, output_degree=1)


def fixed_vector(length):
    """Scalars of ordinary size, and a vector that does not turn: of rounding noise, or wrong."""
    return lambda G: {"0": torch.ones(G.num_nodes(), 1, 1), "1": length * torch.ones(G.num_nodes(), 1, 3)}


def test_a_degree_that_vanishes_is_judged_beside_the_others():
    G = random_graph(torch.float32)
    assert_equivariant(fixed_vector(1e-8), G)
    for length in (1, 1e-2, 2e-5):
        with pytest.raises(AssertionError, match="not equivariant to rotation"):
            assert_equivariant(fixed_vector(length), G)
    # Down to 100 roundings of the others relative to its own length, and then to theirs.
    long, short, shorter = (equivariance_error(fixed_vector(length), G)["rotation"] for length in (1, 2e-5, 5e-6))
    assert short == pytest.approx(long, rel=1e-4)
    assert 1e-6 < shorter < 1e-5 * long


def test_an_output_that_vanishes_is_judged_by_the_scale():
    G = random_graph()

    def noise(G):
        return 1e-17 * torch.ones(G.num_nodes(), 3, dtype=torch.float64)

    assert equivariance_error(noise, G, output_degree=1)["rotation"] > 0.1
    assert_equivariant(noise, G, output_degree=1, scale=1)
    error = equivariance_error(relative_positions, G, output_degree=1, scale=1e-3)
    assert error == equivariance_error(relative_positions, G, output_degree=1)


def test_several_rotations_find_what_one_does_not():
    G = Graph([0, 1], [1, 0])
    G.edata["d"] = torch.tensor([[1.0, 0, 0], [-1, 0, 0]])

    def jumps_near_an_axis(G):
        return 1.0 + (G.edata["d"][:, 2] > 0.9)

    assert equivariance_error(jumps_near_an_axis, G, output_on="edges")["rotation"] == 0
    errors = equivariance_error(jumps_near_an_axis, G, output_on="edges", rotations=50)
    assert errors["rotation"] == 1
    assert {*errors} == {"rotation", "translation", "permutation", "batch"}


def test_rotations_and_scale_that_are_none_are_refused():
    with pytest.raises(ValueError, match="rotations must be a whole number of at least 1, got 0"):
        equivariance_error(distances, random_graph(), rotations=0)
    for scale in (-1, math.inf, math.nan, "large"):
        with pytest.raises(ValueError, match="scale must be finite and at least 0"):
            equivariance_error(distances, random_graph(), scale=scale)
