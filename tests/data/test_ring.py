import numpy as np

from deepcore.data.ring import ring


def test_shapes_and_kinds():
    X, y = ring(n=7)
    assert X.shape == (14, 2) and X.dtype == np.float64
    assert y.shape == (14,) and y.dtype == np.int64
    assert y.tolist() == [0] * 7 + [1] * 7


def test_the_seed_decides():
    assert np.array_equal(ring(seed=3)[0], ring(seed=3)[0])
    assert not np.array_equal(ring(seed=3)[0], ring(seed=4)[0])


def test_a_ring_of_radius_2_around_a_disc_with_noise_of_variance_a_tenth():
    X, y = ring(n=50_000)
    ring_points, disc = X[y == 0], X[y == 1]
    np.testing.assert_allclose(disc.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(np.cov(disc.T), 0.1 * np.eye(2), atol=0.003)
    # E |2 d + e|^2 = 4 + 0.2
    np.testing.assert_allclose((ring_points**2).sum(axis=1).mean(), 4.2, atol=0.02)


def test_directions_come_from_a_square():
    X, y = ring(n=50_000)
    angle = np.arctan2(*X[y == 0].T)
    near_corners = np.abs(np.abs(np.abs(angle) - np.pi / 2) - np.pi / 4) < np.pi / 8
    assert 0.54 < near_corners.mean() < 0.6  # 0.586 without noise; of a circle it would be 0.5


def test_no_points():
    X, y = ring(n=0)
    assert X.shape == (0, 2) and y.shape == (0,)
