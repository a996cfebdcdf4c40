import torch

from benchmarks.steps import Setup, build, make_step
from benchmarks.workloads import TRAINING
from equivariant_attention import contraction


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
