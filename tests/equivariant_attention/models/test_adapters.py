"""Models called with tensors give what they give for graphs."""

import pytest
import torch

from equivariant_attention.models import TFN, OnData, OnEdges, OnPadded, Potential, SE3Transformer
from equivariant_attention.neighbors import fully_connected_graph, knn_graph
from equivariant_attention.testing import assert_equivariant

FIBERS = ({0: 3, 1: 1}, {0: 4, 1: 4}, {0: 2, 1: 1})
SIZES = torch.tensor([4, 6, 3])


def model(**options):
    return SE3Transformer(*FIBERS, **{"num_layers": 1, "edge_dim": 2, **options})


def inputs():
    """Of a batch: features, positions, edges, their features, graph numbers; and the graph of them."""
    batch = torch.arange(3).repeat_interleave(SIZES)
    pos = torch.randn(13, 3)
    G = knn_graph(pos, 2, batch)
    G.edata["w"] = torch.randn(G.num_edges(), 2)
    x = {0: torch.randn(13, 3), "1": torch.randn(13, 3)}  # degree 0 without its components, degree 1 without channels
    return x, pos, torch.stack(G.edges()), G.edata["w"], batch, G


def features_of(x):
    return {0: x[0].unsqueeze(-1), 1: x["1"].unsqueeze(1)}


@pytest.mark.parametrize("pooling", [None, "sum"])
def test_edges(pooling):
    net, (x, pos, edge_index, edge_attr, batch, G) = model(pooling=pooling), inputs()
    found, expected = OnEdges(net)(x, pos, edge_index, edge_attr, batch), net(G, features_of(x))
    torch.testing.assert_close(found, expected)
    assert found["0"].shape[0] == (13 if pooling is None else 3)


def with_fiber_edge(**options):
    """A model whose edges have features of degrees 0 and 1, and these: by pairs of nodes, of one graph of four."""
    net = SE3Transformer({0: 3}, {0: 4, 1: 4}, {0: 2, 1: 1}, 1, fiber_edge={0: 2, 1: 1}, **options)
    return net, {0: torch.randn(1, 4, 4, 2, 1), 1: torch.randn(1, 4, 4, 1, 3)}


def test_features_of_edges_of_any_degree():
    """They arrive: by themselves, as fields of the graph, in a Data and in padded batches."""
    net, on_pairs = with_fiber_edge()
    x, pos = torch.randn(4, 3), torch.randn(4, 3)
    G = fully_connected_graph(pos)
    src, dst = G.edges()
    own = {degree: value[0, dst, src] for degree, value in on_pairs.items()}
    expected = net(G, {0: x.unsqueeze(-1)}, edge_features=own)
    found = OnEdges(net)(x, pos, torch.stack([src, dst]), edge_features={0: own[0].squeeze(-1), "1": own[1]})
    torch.testing.assert_close(found, expected)
    padded = OnPadded(net)(x[None], pos[None], edge_features=on_pairs)
    torch.testing.assert_close({d: v[0] for d, v in padded.items()}, expected)
    G.edata["f0"], G.edata["f1"] = own[0], own[1]
    torch.testing.assert_close(net(G, {0: x.unsqueeze(-1)}), expected)
    other = net(G, {0: x.unsqueeze(-1)}, edge_features={0: own[0], 1: -own[1]})
    assert not torch.allclose(other["1"], expected["1"])
    with pytest.raises(ValueError, match="edge_features must have the degrees"):
        net(G, {0: x.unsqueeze(-1)}, edge_features={0: own[0]})
    with pytest.raises(ValueError, match="edge_features must be None for a layer without f_edge"):
        model(edge_dim=0)(G, {0: x.unsqueeze(-1), 1: torch.randn(4, 1, 3)}, edge_features=own)


def test_they_turn_with_the_graph(tmp_path):
    net, on_pairs = with_fiber_edge(return_type=1)
    G = fully_connected_graph(torch.randn(4, 3))
    src, dst = G.edges()
    G.ndata["q"] = torch.randn(4, 3, 1)
    G.edata["f0"], G.edata["f1"] = (on_pairs[degree][0, dst, src] for degree in (0, 1))
    assert_equivariant(lambda G: net(G, {0: G.ndata["q"]}), G, edge_degrees={"f1": 1}, output_degree=1, tolerance=1e-4)
    net.save_pretrained(tmp_path / "model.pt")
    again = SE3Transformer.from_pretrained(tmp_path / "model.pt")
    assert torch.equal(again(G, {0: G.ndata["q"]}), net(G, {0: G.ndata["q"]}))


def test_features_of_edges_in_data():
    pyg = pytest.importorskip("torch_geometric.data")
    net, on_pairs = with_fiber_edge()
    x, pos = torch.randn(4, 3), torch.randn(4, 3)
    src, dst = fully_connected_graph(pos).edges()
    own, edge_index = {degree: value[0, dst, src] for degree, value in on_pairs.items()}, torch.stack([src, dst])
    data = pyg.Data(x=x, pos=pos, edge_index=edge_index, bond=own[0], push=own[1])
    found = OnData(net, edge_attributes={0: "bond", 1: "push"})(data)
    torch.testing.assert_close(found, OnEdges(net)(x, pos, edge_index, edge_features=own))
    del data.push
    with pytest.raises(ValueError, match="data must have 'push'"):
        OnData(net, edge_attributes={0: "bond", 1: "push"})(data)


def test_a_tensor_is_degree_zero_and_derivatives_flow_to_positions():
    net, (x, pos, edge_index, *_) = TFN({0: 3}, {0: 4, 1: 4}, {0: 1}, 2, return_type=0), inputs()
    pos.requires_grad_()
    output = OnEdges(net)(x[0], pos, edge_index)
    assert output.shape == (13, 1, 1)
    assert torch.autograd.grad(output.sum(), pos)[0].any()


def test_wrong_arguments_are_refused():
    x, pos, edge_index, edge_attr, batch, _ = inputs()
    layer = OnEdges(model())
    for change, message in (
        ({"edge_index": edge_index.T}, r"edge_index must be an int tensor \[2, edges\], got"),
        ({"pos": pos[:, :2]}, r"pos must have shape \[\.\.\., 3\]"),
        ({"x": {0: x[0]}}, r"features must have the degrees \['0', '1'\]"),
        ({"batch": batch.flip(0)}, "batch must be sorted"),
    ):
        given = {"x": x, "pos": pos, "edge_index": edge_index, "edge_attr": edge_attr, "batch": batch, **change}
        with pytest.raises(ValueError, match=message):
            layer(**given)
    with pytest.raises(TypeError, match="model must be an SE3Transformer or a TFN of this library, got Potential"):
        OnEdges(Potential(3.0))


def test_data_of_pytorch_geometric():
    pyg = pytest.importorskip("torch_geometric.data")
    net, (x, pos, edge_index, edge_attr, batch, G) = model(pooling="avg"), inputs()
    expected = net(G, features_of(x))
    layer = OnData(net, {0: "x", 1: "velocity"})
    data = pyg.Data(
        x=x[0], velocity=x["1"], pos=pos, edge_index=edge_index, edge_attr=edge_attr, batch=batch, num_nodes=13
    )
    torch.testing.assert_close(layer(data), expected)
    del data.velocity
    with pytest.raises(ValueError, match="data must have 'velocity', got Data"):
        layer(data)


def test_a_loader_of_pytorch_geometric():
    pyg = pytest.importorskip("torch_geometric.data")
    loader = pytest.importorskip("torch_geometric.loader").DataLoader
    net = SE3Transformer({0: 3}, {0: 4, 1: 4}, {0: 1}, 1, pooling="avg", return_type=0)
    dataset = []
    for size in SIZES.tolist():
        pos = torch.randn(size, 3)
        dataset.append(pyg.Data(x=torch.randn(size, 3), pos=pos, edge_index=torch.stack(knn_graph(pos, 2).edges())))
    (together,) = [OnData(net)(data) for data in loader(dataset, batch_size=3)]
    torch.testing.assert_close(together, torch.cat([OnData(net)(data) for data in dataset]))


@pytest.mark.parametrize("options", [{}, {"k": 2}, {"radius": 1.5}], ids=str)
@pytest.mark.parametrize("pooling", [None, "avg"])
def test_padded_batches(options, pooling):
    """Each sample gives what it gives alone, whatever the padding holds."""
    net = model(pooling=pooling)
    layer, mask = OnPadded(net, **options), torch.arange(6) < SIZES[:, None]
    x, pos = {0: torch.randn(3, 6, 3), "1": torch.randn(3, 6, 1, 3)}, torch.randn(3, 6, 3)
    pairs = torch.randn(3, 6, 6, 2)
    found = layer(x, pos, mask, pairs)
    pos[~mask] = float("nan")
    torch.testing.assert_close(layer(x, pos, mask, pairs), found)
    for i, size in enumerate(SIZES.tolist()):
        alone = layer(
            {d: v[i : i + 1, :size] for d, v in x.items()}, pos[i : i + 1, :size], None, pairs[i : i + 1, :size, :size]
        )
        for degree, value in alone.items():
            of_sample = found[degree][i : i + 1]
            torch.testing.assert_close(of_sample if pooling else of_sample[:, :size], value)
            assert pooling or not of_sample[:, size:].any()


def test_features_of_pairs_go_to_their_edges():
    """In ``[:, i, j]`` is what the edge to node i from node j has."""
    net, pos, x = model(), torch.randn(1, 4, 3), {0: torch.randn(1, 4, 3), 1: torch.randn(1, 4, 3)}
    pairs = torch.randn(1, 4, 4, 2)
    G = fully_connected_graph(pos[0])
    src, dst = G.edges()
    G.edata["w"] = pairs[0, dst, src]
    expected = net(G, {0: x[0][0].unsqueeze(-1), 1: x[1][0].unsqueeze(1)})
    found = OnPadded(net)({0: x[0].unsqueeze(-1), 1: x[1].unsqueeze(2)}, pos, edge_attr=pairs)
    torch.testing.assert_close({d: v[0] for d, v in found.items()}, expected)


def test_wrong_padded_batches_are_refused():
    net, pos, x = model(edge_dim=0), torch.randn(2, 3, 3), {0: torch.randn(2, 3, 3, 1), 1: torch.randn(2, 3, 1, 3)}
    with pytest.raises(ValueError, match="k and radius must not be given together"):
        OnPadded(net, k=1, radius=1.0)
    for mask, message in (
        (torch.ones(2, 3), r"mask must be bool \[2, 3\], got torch.float32"),
        (torch.tensor([[True] * 3, [False] * 3]), "mask must have a node in every sample"),
    ):
        with pytest.raises(ValueError, match=message):
            OnPadded(net)(x, pos, mask)
    with pytest.raises(ValueError, match=r"pos must have shape \[batch, nodes, 3\]"):
        OnPadded(net)(x, pos[0])


def test_padded_values_are_of_as_many_samples_and_nodes_as_positions():
    """Of larger ones some would be read, but the wrong ones."""
    net = SE3Transformer({0: 3}, {0: 4}, {0: 2}, 1, edge_dim=2, fiber_edge={0: 2})
    given = {"x": torch.randn(2, 3, 3), "edge_attr": torch.randn(2, 3, 3, 2), "edge_features": torch.randn(2, 3, 3, 2)}
    assert OnPadded(net)(pos=torch.randn(2, 3, 3), **given)["0"].shape == (2, 3, 2, 1)
    for name, value in given.items():
        for wrong in (value[:1], value[:, :2], torch.cat([value, value], dim=1), torch.cat([value, value])):
            with pytest.raises(ValueError, match=rf"^{name} must be tensors \[2, 3, .*\], got \[{len(wrong)}, "):
                OnPadded(net)(pos=torch.randn(2, 3, 3), **{**given, name: wrong})
    with pytest.raises(ValueError, match=r"^edge_features must be tensors .* got str"):
        OnPadded(net)(pos=torch.randn(2, 3, 3), **{**given, "edge_features": {0: "values"}})


def test_graphs_without_nodes_are_graphs():
    data = pytest.importorskip("torch_geometric.data")
    empty = {"x": torch.zeros(0, 3), "pos": torch.zeros(0, 3), "edge_index": torch.zeros(2, 0, dtype=torch.int64)}
    some = {"x": torch.randn(3, 3), "pos": torch.randn(3, 3), "edge_index": torch.tensor([[0, 1], [1, 0]])}
    net = SE3Transformer({0: 3}, {0: 4, 1: 4}, {0: 1}, 1, pooling="sum", return_type=0)
    both = data.Batch.from_data_list([data.Data(**some), data.Data(**empty)])
    found = OnData(net)(both)
    torch.testing.assert_close(found, torch.cat([OnData(net)(data.Data(**some)), torch.zeros(1, 1, 1)]))


def test_what_is_no_mask_or_radius_is_refused():
    net = SE3Transformer({0: 3}, {0: 4, 1: 4}, {0: 1}, 1)
    with pytest.raises(TypeError, match="mask must be a bool tensor, got list"):
        OnPadded(net)(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), [[True, True]])
    for radius in (-1, "a"):
        with pytest.raises(ValueError, match="radius must be larger than 0"):
            OnPadded(net, radius=radius)
