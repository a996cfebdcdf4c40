import copy

import pytest
import torch

from experiments.toy_optimisation.data import SpringsDataset, collate, energies
from experiments.toy_optimisation.evaluation import (
    batch_loss,
    compare,
    ends,
    mean_results,
    mirror,
    table,
)
from experiments.toy_optimisation.gradient_descent import GradientDescent
from experiments.toy_optimisation.models import SE3TransformerIterative, move
from utils.loaders import EpochLoader
from utils.training import make_fabric


class Resting(torch.nn.Module):
    """Moves nothing, in two steps."""

    def forward(self, G):
        step = torch.zeros_like(G.ndata["x"])
        for i in range(2):
            move(G, step)
            G.ndata[f"update_norm_{i}"] = step.norm(dim=-1, keepdim=True)
        return G, [step, step]


def test_loss_is_the_energy_after_the_moves_and_leaves_the_batch_alone():
    G, plan = collate([SpringsDataset(3, 4)[i] for i in range(3)])
    before = {name: value.clone() for name, value in [*G.ndata.items(), *G.edata.items()]}
    model = SE3TransformerIterative(1, 2, num_iter=2)
    metrics, size = batch_loss(model, (G, plan))
    assert size == 3
    assert {**G.ndata, **G.edata}.keys() == before.keys()
    assert all(torch.equal({**G.ndata, **G.edata}[name], value) for name, value in before.items())
    moved, steps = model(G.local_var())
    torch.testing.assert_close(metrics["loss"], moved.edata["w"].mean())
    for i, step in enumerate(steps):
        torch.testing.assert_close(metrics[f"update_norm_{i}"], step.norm(dim=-1).mean())


def test_training_may_mind_the_energy_on_the_way():
    batch = collate([SpringsDataset(3, 4)[i] for i in range(3)])
    models = [SE3TransformerIterative(1, 2, num_iter=3)]
    models += [copy.deepcopy(models[0]) for _ in range(2)]
    for model, blocks in zip(models, (3, 2, 1), strict=True):
        model.blocks = model.blocks[:blocks]
    last, second, first = (batch_loss(model.eval(), batch, step_loss=0.5)[0]["loss"] for model in models)
    with_steps, _ = batch_loss(models[0].train(), batch, step_loss=0.5)
    torch.testing.assert_close(with_steps["loss"], last + 0.5 * (first + second) / 2)


@pytest.mark.parametrize("post_process", [True, False])
def test_comparison(post_process):
    loader = EpochLoader(SpringsDataset(10, 4, "log"), 4, collate)
    results = compare(make_fabric("cpu", "32-true"), Resting(), GradientDescent(), loader, post_process)
    everything, _ = collate([loader.dataset[i] for i in range(10)])
    start = energies(everything)
    assert results["start"] == pytest.approx(results["network"], rel=1e-6)
    assert results["start"]["energy"] == pytest.approx(start.mean().item())
    assert results["start"]["standard_error"] == pytest.approx(start.std(correction=0).item() / 10**0.5, rel=1e-4)
    _, steps = GradientDescent()(everything)
    descended = results["gradient descent"]
    assert descended["energy"] == pytest.approx(energies(everything).mean().item(), rel=1e-5)
    assert descended["steps"] == steps.double().mean().item()
    assert results["network, both images"] == results["network"]
    assert ("network + gradient descent" in results) == post_process
    if post_process:
        assert results["network + gradient descent"] == pytest.approx(descended, rel=1e-3)
        both = results["network + gradient descent, both images"]
        assert both == pytest.approx({**descended, "steps": 2 * descended["steps"]}, rel=1e-3)
    lines = table(results).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == list(results)
    assert f"{descended['energy']:.5f}" in lines[3]


def test_of_both_images_the_lower_end_is_kept():
    G, _ = collate([SpringsDataset(12, 4)[i] for i in range(12)])

    def by_handedness(G):
        a, b, c = G.ndata["x"].view(-1, 4, 3)[:, 1:].unbind(1)
        is_right = (a * b.cross(c, dim=1)).sum(1, keepdim=True) > 0
        move(G, torch.where(is_right, 1, -0.2).repeat_interleave(4, dim=0).view(-1, 1, 1) * G.ndata["x"])
        return G

    one, other = (energies(by_handedness(start)) for start in (G.local_var(), mirror(G.local_var())))
    found = ends(by_handedness, GradientDescent(), G, post_process=True)
    torch.testing.assert_close(found["network"][0], one)
    lower, steps = found["network, both images"]
    assert steps is None
    torch.testing.assert_close(lower, torch.minimum(one, other))
    assert 0 < (lower < one).sum() < 12
    from_one, from_other = (GradientDescent()(by_handedness(start)) for start in (G.local_var(), mirror(G.local_var())))
    lower, steps = found["network + gradient descent, both images"]
    torch.testing.assert_close(lower, torch.minimum(energies(from_one[0]), energies(from_other[0])))
    assert torch.equal(steps, from_one[1] + from_other[1])


def test_means_over_sets():
    results = [{"start": {"energy": 0.2, "standard_error": 0.1}}, {"start": {"energy": 0.4, "standard_error": 0.1}}]
    assert mean_results(results) == {
        "start": {"energy": pytest.approx(0.3), "standard_error": pytest.approx(0.1 / 2**0.5)}
    }
