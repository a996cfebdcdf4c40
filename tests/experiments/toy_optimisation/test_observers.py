import copy

import pytest
import torch

from experiments.toy_optimisation.data import SpringsDataset, collate, energies
from experiments.toy_optimisation.models import SE3TransformerIterative
from experiments.toy_optimisation.observers import GradientFlow, attention_weights


def make_model(**options):
    torch.manual_seed(1)
    return SE3TransformerIterative(**{"num_layers": 1, "num_degrees": 2, "num_iter": 3, "div": 2, **options})


def graphs(number=2, n=4):
    dataset = SpringsDataset(number, n)
    return collate([dataset[i] for i in range(number)])[0]


def backward(model):
    G, _ = model(graphs())
    energies(G).mean().backward()


def test_gradients_are_those_of_the_inputs_of_a_block():
    """Against the gradients that autograd keeps for the tensors themselves."""
    model, kept = make_model(), {}
    flow = GradientFlow(model)

    def keep(layer, args, kwargs):
        kept["basis"], kept["network"] = [kwargs["basis"].direction], list(args[0].values())
        for tensor in kept["basis"] + kept["network"]:
            tensor.retain_grad()

    model.blocks[2][0].register_forward_pre_hook(keep, with_kwargs=True)
    backward(model)
    norms = flow.norms()
    assert norms.keys() == {f"{way}_gradient_{i}" for way in ("basis", "network") for i in (1, 2)}
    for way, tensors in kept.items():
        expected = torch.cat([tensor.grad.flatten() for tensor in tensors if tensor.grad is not None]).norm()
        assert expected > 0
        torch.testing.assert_close(norms[f"{way}_gradient_2"], expected)


def test_no_gradients_through_the_basis_where_there_should_be_none():
    model = make_model(compute_gradients=False)
    flow = GradientFlow(model)
    backward(model)
    assert flow.norms().keys() == {"network_gradient_1", "network_gradient_2"}


def test_norms_are_of_the_last_backward_pass_and_watching_changes_nothing():
    plain, watched = make_model(), make_model()
    flow = GradientFlow(watched)
    backward(watched)
    first = flow.norms()
    with torch.no_grad():
        watched(graphs())
    watched.zero_grad()
    backward(watched)
    backward(plain)
    assert flow.norms() == first
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert (a.grad is b.grad is None) or torch.equal(a.grad, b.grad)
    copy.deepcopy(watched)


def test_one_block_has_no_flow():
    model = make_model(num_iter=1)
    flow = GradientFlow(model)
    backward(model)
    assert flow.norms() == {}


@pytest.mark.parametrize("k", [None, 2])
def test_attention_weights(k):
    model = make_model(n_heads=2, k_neighbors=k)
    weights = attention_weights(model, graphs(1, 5))
    assert [len(layers) for layers in weights] == [1, 1, 2]
    for weight in (weight for layers in weights for weight in layers):
        torch.testing.assert_close(weight.sum(dim=1), torch.ones(5))
        assert not weight.diagonal().any()
        assert ((weight > 0).sum(dim=1) == (k or 4)).all()
    hooks = [module._forward_hooks for module in model.modules()]
    assert not any(hooks)
