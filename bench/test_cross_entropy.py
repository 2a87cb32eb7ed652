"""Cross-entropy of class labels, with its gradient."""

OPS = ["loss.cross_entropy"]


def test_cross_entropy(timed):
    assert timed.error <= 1e-5
