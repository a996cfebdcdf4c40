import copy
import functools

import pytest
import torch
from torch import nn

from utils.flat_parameters import FlatParameters
from utils.soap import SOAP


def make_model(seed=0):
    torch.manual_seed(seed)
    layers = [nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 5), nn.SiLU(), nn.Linear(5, 5), nn.LayerNorm(5), nn.Linear(5, 1)]
    return nn.Sequential(*layers).double()


def loss_of(model):
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (model(x) - x.sin().sum(1, keepdim=True)).square().mean()


def find_gradients(flat, model, loss_of=loss_of):
    flat.zero_grad()
    loss = loss_of(model)
    loss.backward()
    flat.join_gradients()
    return loss


def trained(model, make_optimizer, steps=25, loss_of=loss_of):
    flat = FlatParameters(model)
    optimizer = make_optimizer(flat)
    for _ in range(steps):
        find_gradients(flat, model, loss_of)
        optimizer.step()
    return dict(model.named_parameters())


def test_without_bases_it_is_adam():
    options = {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1}
    soap = trained(make_model(), lambda flat: SOAP(flat.groups, longest=1, **options))
    torch.testing.assert_close(soap, trained(make_model(), lambda flat: torch.optim.AdamW(flat.whole, **options)))


@pytest.mark.parametrize("longest", [64, 4])
def test_matrices_taken_together_change_as_each_alone(longest):
    def each_alone(model):
        flats = [FlatParameters(layer) for layer in model if list(layer.parameters())]
        return flats, [SOAP(flat.groups, lr=0.02, longest=longest) for flat in flats]

    model = make_model()
    flats, optimizers = each_alone(model)
    for _ in range(25):
        for flat in flats:
            flat.zero_grad()
        loss_of(model).backward()
        for flat, optimizer in zip(flats, optimizers, strict=True):
            flat.join_gradients()
            optimizer.step()
    together = trained(make_model(), lambda flat: SOAP(flat.groups, lr=0.02, longest=longest))
    torch.testing.assert_close(together, dict(model.named_parameters()))


class Turned(nn.Module):
    """The matrix W of an ill-conditioned problem, seen as P W Q."""

    def __init__(self, P, W, Q):
        super().__init__()
        self.P, self.Q = P, Q
        self.weight = nn.Parameter(P @ W @ Q)

    def forward(self):
        return self.P.mT @ self.weight @ self.Q.mT


def ill_conditioned(model):
    scales = torch.logspace(0, 1, 5, dtype=torch.float64)
    return (scales[:, None] * (model() - 1) * scales).square().sum()


def turned_and_not(make_optimizer, steps):
    """W of the problem after some steps, in the coordinates of the problem and in others."""
    torch.manual_seed(2)
    W = torch.randn(5, 5, dtype=torch.float64)
    others = [torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q for _ in range(2)]
    found = []
    for P, Q in (2 * [torch.eye(5, dtype=torch.float64)], others):
        model = Turned(P, W, Q)
        trained(model, make_optimizer, steps, ill_conditioned)
        found.append(model().detach())
    return found


def test_coordinates_do_not_matter():
    # Where a gradient is zero but for rounding, a smaller eps would make a step of it.
    soap = turned_and_not(lambda flat: SOAP(flat.groups, lr=0.02, eps=1e-4), 60)
    torch.testing.assert_close(*soap, rtol=1e-6, atol=1e-6)
    adam, turned = turned_and_not(lambda flat: torch.optim.AdamW(flat.whole, lr=0.02), 60)
    assert (adam - turned).abs().max() > 0.01


def test_closure_and_state_dict():
    model = make_model()
    flat = FlatParameters(model)
    optimizer, closure = SOAP(flat.groups, lr=0.02), functools.partial(find_gradients, flat, model)
    before = loss_of(model).item()
    assert optimizer.step(closure).item() == before
    for _ in range(12):
        optimizer.step(closure)
    assert loss_of(model) < before
    other = copy.deepcopy(model)
    flat_other = FlatParameters(other)
    again = SOAP(flat_other.groups)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(12):
        optimizer.step(closure)
        find_gradients(flat_other, other)
        again.step()
    torch.testing.assert_close(dict(model.named_parameters()), dict(other.named_parameters()), rtol=0, atol=0)
