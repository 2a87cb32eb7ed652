"""A layer beside its twin in torch: the same weights, the same input, the same gradient of the output."""

import numpy as np

TOLERANCE = {"float64": {"rtol": 1e-9, "atol": 1e-10}, "float32": {"rtol": 2e-5, "atol": 1e-5}}


def compare(f, module, X, dtype, names=(("W", "weight"), ("b", "bias"))):
    """Give f the module's weights, and assert that Y, dX and every weight's gradient are torch's.

    names: what torch calls each weight of f. Shapes may differ, but not the order of the numbers.
    """
    import torch

    module = module.to(getattr(torch, dtype))
    twins = [
        (ours, parameter) for ours, theirs in names if (parameter := getattr(module, theirs)) is not None
    ]
    for ours, parameter in twins:
        shape = f.weight[ours].shape
        f.weight[ours] = parameter.detach().numpy().reshape(shape).copy()
    assert (f.weight or {}).keys() == {ours for ours, _ in twins}
    module.zero_grad()
    tX = torch.tensor(X.astype(dtype), requires_grad=True)
    tY = module(tX)
    dY = np.random.default_rng(1).standard_normal(tuple(tY.shape)).astype(dtype)
    tY.backward(torch.tensor(dY))
    Y = f(X.astype(dtype))
    dX = f.backward(dY)
    pairs = [("Y", Y, tY.detach()), ("dX", dX, tX.grad)]
    pairs += [(f"d{ours}", f.weight_update[ours], parameter.grad) for ours, parameter in twins]
    for name, got, wanted in pairs:
        wanted = wanted.numpy()
        assert got.dtype == dtype, name
        assert got.size == wanted.size and (name not in ("Y", "dX") or got.shape == wanted.shape), name
        scale = max(1.0, np.abs(wanted).max(initial=0.0))
        np.testing.assert_allclose(
            got.reshape(wanted.shape) / scale, wanted / scale, err_msg=name, **TOLERANCE[dtype]
        )
