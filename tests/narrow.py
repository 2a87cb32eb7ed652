"""Kernels as for a processor with AVX2 but not AVX-512, on any that has either: pytest -p tests.narrow"""

import os

os.environ |= {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma"}  # numba reads it once
