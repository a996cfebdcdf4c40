import pytest
import torch
from PIL import Image

from experiments.toy_optimisation import plots
from experiments.toy_optimisation.data import SpringsDataset, collate, energies
from experiments.toy_optimisation.gradient_descent import GradientDescent
from experiments.toy_optimisation.models import SE3TransformerIterative
from experiments.toy_optimisation.observers import attention_weights

DESCENT = GradientDescent(max_steps=20)


@pytest.fixture
def model():
    return SE3TransformerIterative(1, 2, num_iter=2).eval()


def graphs(number=1):
    return collate([SpringsDataset(number, 4)[i] for i in range(number)])[0]


def test_paths(model):
    G = graphs(2)
    by_network = plots.network_path(G, model)
    moved, _ = model(G.local_var())
    torch.testing.assert_close([by_network[0], by_network[-1]], [G.ndata["x"], moved.ndata["x"].detach()])
    assert len(by_network) == 3
    by_descent = plots.descent_path(G, DESCENT, by_network[-1])
    assert torch.equal(by_descent[0], by_network[-1])
    DESCENT(moved)
    torch.testing.assert_close(by_descent[-1], moved.ndata["x"].detach())
    assert plots.energy_of(G, by_descent[-1]) == pytest.approx(energies(moved).mean().item(), rel=1e-5)


@pytest.mark.pictures
def test_animation(model, tmp_path):
    plots.animation(graphs(), model, DESCENT, tmp_path / "animation.gif", frames_per_step=2)
    with Image.open(tmp_path / "animation.gif") as animation:
        assert (animation.format, animation.is_animated) == ("GIF", True)
        assert animation.n_frames > 6
        frames = []
        for number in (0, animation.n_frames - 1):
            animation.seek(number)
            frames.append(animation.convert("RGB").tobytes())
    assert frames[0] != frames[1]


@pytest.mark.pictures
def test_animation_of_points_at_rest(model, tmp_path):
    plots.animation(graphs(), model, GradientDescent(max_steps=1), tmp_path / "animation.gif", frames_per_step=1)
    assert (tmp_path / "animation.gif").read_bytes().startswith(b"GIF89a")


@pytest.mark.pictures
def test_energy_curves_and_attention(model, tmp_path):
    G = graphs()
    plots.energy_curves(graphs(3), model, DESCENT, tmp_path / "energy.png")
    plots.attention(
        G, attention_weights(model, G.local_var()), plots.network_path(G, model), tmp_path / "attention.png"
    )
    for name in ("energy", "attention"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
