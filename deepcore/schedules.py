"""temporary"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class cosine:
    """x"""

    rate: float
    steps: int
    final: float = 0.0

    def __call__(self, step):
        """x"""
        return self.final + (self.rate - self.final) * (1 + math.cos(math.pi * min(step / self.steps, 1))) / 2
