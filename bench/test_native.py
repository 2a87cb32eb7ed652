"""Every other native kernel against its reference, at one realistic size.

The cases are not those of tests/ops/test_native.py: there small and odd shapes look for mistakes, here
large and even ones for time. Both lists must hold every native kernel, and their tests see to that.
"""

from deepcore.diagnose.kernels import CASES, MAIN_OPS

OPS = [op for op in dict.fromkeys(case.op for case in CASES) if op not in MAIN_OPS]


def test_native(timed):
    assert timed.error <= 1e-5
