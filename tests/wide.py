"""Kernels with vectors of 16 numbers, as for AVX-512, on any processor: pytest -p tests.wide

LLVM isn't told, and splits vectors for which the processor at hand has no registers.
"""

from numba.core.registry import cpu_target

_codegen = cpu_target.target_context.codegen()  # pyright: ignore[reportAttributeAccessIssue]
_triple, _processor, _features = _codegen.magic_tuple()  # what numba asks for, and a part of its cache's keys
_wide = _triple, _processor, f"{_features},+avx512f"
_codegen.magic_tuple = lambda: _wide
