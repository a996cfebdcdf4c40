import numpy as np
import pytest

from experiments.scanobjectnn.rotations import draw_rotation


def test_rotations_are_uniform():
    rng = np.random.default_rng(0)
    turns = np.array([draw_rotation("so3", rng) for _ in range(2000)])
    np.testing.assert_allclose(np.linalg.det(turns), 1)
    np.testing.assert_allclose(turns.mean(0), np.zeros((3, 3)), atol=0.05)
    np.testing.assert_allclose((turns**2).mean(0), np.full((3, 3), 1 / 3), atol=0.03)


def test_the_vertical_stays_where_it_is_about_z():
    rng = np.random.default_rng(0)
    turns = np.array([draw_rotation("z", rng) for _ in range(2000)])
    np.testing.assert_array_equal(turns[:, :, 2], np.tile([0, 0, 1], (2000, 1)))
    np.testing.assert_allclose(turns.mean(0)[:2, :2], np.zeros((2, 2)), atol=0.05)
    assert np.linalg.det(turns) == pytest.approx(1)
    np.testing.assert_array_equal(draw_rotation("none", rng), np.eye(3))
