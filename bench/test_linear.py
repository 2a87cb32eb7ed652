"""Linear: Y = X W + b, and dX, dW, db."""

OPS = ["linear.linear", "linear.linear_backward"]


def test_linear(timed):
    assert timed.error <= 1e-5
