import torch

from benchmarks.steps import Setup, build, make_step
from benchmarks.workloads import FORCES_TRAINED, TRAINING
from equivariant_attention import contraction
from equivariant_attention.neighbors import fully_connected_graph


def test_a_step_runs_in_the_named_backend(monkeypatch):
    calls = []
    monkeypatch.setitem(
        contraction.BACKENDS, "mine", lambda *arguments: calls.append(1) or contraction.BACKENDS["oracle"](*arguments)
    )
    model, G = build(Setup(tiny=True), "nbody", "128 systems")
    make_step(model, G, "default", TRAINING)()
    assert not calls
    make_step(model, G, "mine", TRAINING)()
    assert calls


def test_gradients_are_of_one_step_alone():
    model, G = build(Setup(tiny=True), "nbody", "128 systems")
    step, gradients = make_step(model, G, "default", TRAINING), []
    for _ in range(2):
        step()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


class Springs(torch.nn.Module):
    """The energy of springs between all points, ``a sum |d|^2``."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, G):
        return self.a * G.edata["d"].square().sum().reshape(1, 1)


def test_a_step_on_forces_has_the_gradient_of_energies_and_forces():
    model, G = Springs(), fully_connected_graph(torch.randn(4, 3))
    make_step(model, G, "default", FORCES_TRAINED)()
    x = G.ndata["x"].squeeze(1)
    energy, gradient = G.edata["d"].square().sum(), 4 * (4 * x - x.sum(0))  # for a = 1
    torch.testing.assert_close(model.a.grad, 2 * 3 * (energy.square() + gradient.square().mean()))
    assert not G.ndata["x"].requires_grad
    assert not G.edata["d"].requires_grad
