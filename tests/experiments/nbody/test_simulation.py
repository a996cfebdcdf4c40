from pathlib import Path

import numpy as np
import pytest

from experiments.nbody import simulation
from experiments.nbody.simulation import DT, Settings, Trajectories, advance, fold, simulate

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "nbody_charged5.npz"


def textbook_step(x, v, strengths, settings):
    """One step of one simulation, x and v [n, dim], particle by particle."""
    force = np.zeros_like(x)
    for i in range(len(x)):
        for j in range(len(x)):
            apart = x[i] - x[j]
            if i != j and settings.simulation == "charged":
                force[i] += strengths[i, j] * apart / np.linalg.norm(apart) ** 3
            elif i != j:
                force[i] -= 0.1 * strengths[i, j] * apart
    v = v + 0.001 * np.clip(force, -100, 100)
    x = x + 0.001 * v
    b = settings.box_size
    if b > 0:
        v = np.where(x > b, -np.abs(v), np.where(x < -b, np.abs(v), v))
        x = np.where(x > b, 2 * b - x, np.where(x < -b, -2 * b - x, x))
    return x, v


@pytest.mark.skipif(not SHARED.exists(), reason="shared data absent")
def test_reproduces_the_shared_trajectories_from_frame_to_frame():
    with np.load(SHARED) as content:
        loc, vel, charges = content["loc"], content["vel"], content["charges"]
    products = charges * charges.swapaxes(1, 2)
    states = [np.concatenate(list(a[:, :-1].swapaxes(0, 1))) for a in (loc, vel)]
    final_loc, final_vel = advance(*states, np.tile(products, (8, 1, 1)), Settings(box_size=0), 500, 500)
    for final, frames in ((final_loc, loc), (final_vel, vel)):
        error = np.abs(final[:, 1] - np.concatenate(list(frames[:, 1:].swapaxes(0, 1))))
        assert np.median(error) < 1e-12
        assert np.quantile(error, 0.99) < 1e-9


@pytest.mark.parametrize("kind", ["charged", "springs"])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_agrees_with_a_particle_by_particle_step(kind, dim, n):
    settings = Settings(kind, n, dim, box_size=0.7, length=20, sample_freq=10)
    run = simulate(settings, 4, seed=1)
    for s in range(4):
        x, v = run.loc[s, 0].T, run.vel[s, 0].T
        for step in range(20):
            x, v = textbook_step(x, v, run.edges[s], settings)
            if (step + 1) % 10 == 0:
                frame = (step + 1) // 10
                np.testing.assert_allclose(run.loc[s, frame].T, x, rtol=0, atol=1e-13)
                np.testing.assert_allclose(run.vel[s, frame].T, v, rtol=0, atol=1e-11)


def test_frames_include_both_ends():
    settings = Settings(length=30, sample_freq=10)
    run = simulate(settings, 3, seed=0)
    assert settings.frames == 4
    assert run.loc.shape == run.vel.shape == (3, 4, 3, 5)
    for start in range(3):  # continuing from any frame gives the next ones, bit by bit
        loc, vel = advance(run.loc[:, start], run.vel[:, start], run.edges, settings, 30 - 10 * start, 10)
        np.testing.assert_array_equal(loc, run.loc[:, start:])
        np.testing.assert_array_equal(vel, run.vel[:, start:])


def test_initial_states_are_as_published():
    for kind, spread in (("charged", 1.0), ("springs", 0.5)):
        run = simulate(Settings(kind, length=1, sample_freq=1), 3000, seed=3)
        # 45,000 normal numbers: the standard error of their standard deviation is 0.0033 times it.
        assert abs(run.loc[:, 0].std() / spread - 1) < 0.015
        np.testing.assert_allclose(np.linalg.norm(run.vel[:, 0], axis=1), 0.5)
        assert np.abs(run.vel[:, 0].mean(axis=(0, 2))).max() < 0.012  # standard error 0.0024
        if kind == "charged":
            assert set(np.unique(run.charges)) == {-1.0, 1.0}
            assert abs(run.charges.mean()) < 0.04  # standard error 0.008
            np.testing.assert_array_equal(run.edges, run.charges @ run.charges.swapaxes(1, 2))
        else:
            above = run.edges[:, np.triu(np.ones((5, 5), dtype=bool), 1)]
            assert set(np.unique(above)) == {0.0, 1.0}
            assert abs(above.mean() - 0.5) < 0.015  # standard error 0.003
            np.testing.assert_array_equal(run.edges, run.edges.swapaxes(1, 2))
            assert (np.diagonal(run.edges, axis1=1, axis2=2) == 0).all()
            assert (run.charges == 1).all()


@pytest.mark.parametrize("kind", ["charged", "springs"])
def test_momentum_is_conserved_without_walls(kind):
    # Capped forces are not equal and opposite, so only runs without a close encounter count.
    run = simulate(Settings(kind, box_size=0, length=1000, sample_freq=100), 20, seed=5)
    uncapped = np.abs(np.diff(run.vel, axis=1)).max(axis=(1, 2, 3)) < 1
    assert uncapped.sum() >= 8
    momentum = run.vel[uncapped].sum(axis=3)
    np.testing.assert_allclose(momentum, momentum[:, :1] * np.ones((1, 11, 1)), rtol=0, atol=1e-12)


def test_energy_of_springs_is_nearly_conserved():
    run = simulate(Settings("springs", box_size=0, length=5000), 50, seed=5)
    apart = run.loc[..., :, None] - run.loc[..., None, :]
    potential = 0.1 * (run.edges[:, None] * (apart**2).sum(axis=2)).sum(axis=(2, 3)) / 4
    energy = (run.vel**2).sum(axis=(2, 3)) / 2 + potential
    # Symplectic Euler: the error is of order DT times the frequency, and does not drift.
    assert np.abs(energy / energy[:, :1] - 1).max() < 1e-3
    assert potential.std(axis=1).max() > 0.05  # energy did change its form


def test_walls_keep_everything_inside_and_reflect_elastically():
    run = simulate(Settings(n_balls=1, box_size=0.5, length=5000, sample_freq=50), 20, seed=2)
    assert np.abs(run.loc).max() <= 0.5
    np.testing.assert_allclose(np.abs(run.vel), np.abs(run.vel[:, :1]) * np.ones((1, 101, 1, 1)), rtol=1e-12)
    assert (np.sign(run.vel) != np.sign(run.vel[:, :1])).any(axis=(0, 1)).all()
    crowd = simulate(Settings(n_balls=6, box_size=1.0, length=2000), 50, seed=2)
    assert np.abs(crowd.loc).max() <= 1.0


def test_wall_step_exactly():
    x, v = np.array([[[0.9999, -0.9999]]] * 2), np.array([[[0.5, -0.5]]] * 2)
    x[1] *= 0
    loc, vel = advance(
        x.swapaxes(0, 1), v.swapaxes(0, 1), np.zeros((1, 2, 2)), Settings(n_balls=2, dim=2, box_size=1.0), 1, 1
    )
    np.testing.assert_allclose(loc[0, 1, 0], [0.9996, -0.9996], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(vel[0, 1], [[-0.5, 0.5], [0.5, -0.5]])


def test_fold_mirrors_as_often_as_needed():
    positions = np.array([0.3, 1.2, 2.5, 3.5, 5.25, -1.2, -3.5, 1.0, -1.0])
    np.testing.assert_allclose(fold(positions, 1.0), [0.3, 0.8, -0.5, -0.5, 0.75, -0.8, 0.5, 1.0, -1.0], atol=1e-15)


@pytest.mark.parametrize("kind", ["charged", "springs"])
def test_coincident_particles_feel_no_force_from_each_other(kind):
    settings = Settings(kind, n_balls=3, box_size=0)
    loc = np.zeros((1, 3, 3))
    loc[0, 0, 2] = 2.0
    final_loc, final_vel = advance(loc, np.zeros((1, 3, 3)), np.ones((1, 3, 3)), settings, 1, 1)
    size = 1 / 4 if kind == "charged" else -0.1 * 2
    np.testing.assert_allclose(final_vel[0, 1, 0], DT * size * np.array([-1, -1, 2]), rtol=1e-14)
    assert np.isfinite(final_loc).all()


@pytest.mark.parametrize("apart", [1e-3, 1e-40, 1e-60, 1e-120, 1e-300])
def test_force_between_close_particles_is_capped_and_finite(apart):
    loc = np.zeros((1, 3, 2))
    loc[0, 0, 1] = apart
    _, vel = advance(loc, np.zeros_like(loc), np.ones((1, 2, 2)), Settings(n_balls=2, box_size=0), 1, 1)
    assert np.isfinite(vel).all()
    assert vel[0, 1, 0, 0] == -vel[0, 1, 0, 1]
    assert np.abs(vel).max() <= 0.1 + 1e-15
    if 1e-75 < apart < 0.01:
        assert vel[0, 1, 0, 1] == pytest.approx(0.1)


def test_two_dimensions():
    run = simulate(Settings(dim=2, length=200), 5, seed=0)
    assert run.loc.shape == (5, 3, 2, 5)
    np.testing.assert_allclose(np.linalg.norm(run.vel[:, 0], axis=1), 0.5)


@pytest.mark.parametrize("kind", ["charged", "springs"])
def test_trajectory_depends_on_seed_and_number_only(monkeypatch, kind):
    settings = Settings(kind, length=200)
    reference = simulate(settings, 13, seed=7)
    monkeypatch.setattr(simulation, "BLOCK_NUMBERS", 4 * 75)
    for other in (simulate(settings, 13, seed=7), simulate(settings, 9, seed=7)):
        for name in ("loc", "vel", "charges", "edges"):
            np.testing.assert_array_equal(getattr(other, name), getattr(reference, name)[: len(other)])
    assert (simulate(settings, 13, seed=8).loc[:, 0] != reference.loc[:, 0]).all()
    assert (simulate(settings, 13, seed=(7, 1)).loc[:, 0] != reference.loc[:, 0]).all()
    assert len(np.unique(reference.loc[:, 0])) == 13 * 15


def test_progress_bar_changes_nothing(capsys):
    settings = Settings(length=20, sample_freq=10)
    np.testing.assert_array_equal(simulate(settings, 2, 0, progress=True).loc, simulate(settings, 2, 0).loc)
    assert "charged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("simulation", "gravity"), ("n_balls", 0), ("n_balls", 2.5), ("n_balls", True), ("dim", 4), ("dim", 1),
        ("box_size", -1.0), ("box_size", float("nan")), ("box_size", float("inf")), ("box_size", "5"), ("length", 0),
        ("sample_freq", 0), ("sample_freq", -100), ("sample_freq", 300),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected .* got"):
        Settings(**{name: value})


def test_bad_calls_are_refused_by_name():
    settings = Settings(n_balls=2)
    good = {"loc": np.zeros((1, 3, 2)), "vel": np.zeros((1, 3, 2)), "strengths": np.zeros((1, 2, 2))}
    advance(**good, settings=settings, steps=0, frame_every=1)
    bad = {
        "loc": [np.zeros((1, 2, 3)), np.full((1, 3, 2), np.nan), np.full((1, 3, 2), 5.1)],
        "vel": [np.zeros((2, 3, 2)), np.full((1, 3, 2), np.inf)],
        "strengths": [np.zeros((1, 2)), np.array([[[0.0, 1.0], [0.0, 0.0]]])],
        "steps": [-1, 15],
        "frame_every": [0],
    }
    for name, values in bad.items():
        for value in values:
            arguments = {**good, "settings": settings, "steps": 10, "frame_every": 10, name: value}
            with pytest.raises(ValueError, match=f"^{name}: expected .*, got"):
                advance(**arguments)
    for arguments in ((settings, 0, 1), (settings, 1, -1), (settings, 1, 0.5), (settings, 1, (1, -1))):
        with pytest.raises(ValueError, match=r"^(num_simulations|seed): expected"):
            simulate(*arguments)


def test_a_particle_too_fast_for_the_box_is_an_error():
    loc, vel = np.zeros((1, 3, 2)), np.full((1, 3, 2), 5000.0)
    with pytest.raises(FloatingPointError, match="left the box"):
        advance(loc, vel, np.zeros((1, 2, 2)), Settings(n_balls=2, box_size=1.0), 1, 1)


def test_trajectories_of_unfitting_or_unfinite_arrays_are_refused():
    good = {
        "loc": np.zeros((2, 3, 3, 4)), "vel": np.zeros((2, 3, 3, 4)), "charges": np.ones((2, 4, 1)),
        "edges": np.ones((2, 4, 4)), "sample_freq": 100, "dt": 0.001,
    }  # fmt: skip
    assert len(Trajectories(**good)) == 2
    bad = {
        "loc": [np.zeros((2, 3, 4)), np.zeros((2, 3, 4, 3)), np.full((2, 3, 3, 4), np.nan)],
        "vel": [np.zeros((2, 4, 3, 4))],
        "charges": [np.ones((2, 4)), np.full((2, 4, 1), np.inf)],
        "edges": [np.ones((2, 4, 1))],
        "sample_freq": [0, 1.5],
        "dt": [0.0, float("nan")],
    }
    for name, values in bad.items():
        for value in values:
            with pytest.raises(ValueError, match=f"^{name}: expected"):
                Trajectories(**{**good, name: value})
