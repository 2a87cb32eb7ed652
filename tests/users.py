"""Classes as a user writes them: the two of the contract, one with several inputs, and a container."""

import deepcore as dc


class Square(dc.Function):
    def forward(self, X):
        return X * X

    def local_grad(self, X):
        return {"X": 2 * X}


class Scale(dc.Layer):
    def __init__(self):
        super().__init__()
        self.weight["s"] = dc.asarray([[1.0]])

    def forward(self, X):
        self.cache["X"] = X
        return X * self.weight["s"]

    def backward(self, dY):
        xp = dc.array_namespace(dY)
        self.weight_update["s"] = xp.reshape(xp.sum(dY * self.cache["X"]), (1, 1))
        return dY * self.weight["s"]


class Product(dc.Function):
    """Two inputs, elementwise: the default backward returns a tuple."""

    def forward(self, A, B):
        return A * B

    def local_grad(self, A, B):
        return {"A": B, "B": A}


class Difference(dc.Function):
    """f(A) - f(B): a container of the user's own that calls its child twice."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, A, B):
        return self.f(A) - self.f(B)

    def backward(self, dY):
        dB = self.f.backward(-dY)  # last call first
        return self.f.backward(dY), dB
