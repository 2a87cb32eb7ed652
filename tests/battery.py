"""What is tested: all CASES, one line for each Function, Layer, Loss and container, and its settings.

A new one joins by a line in the file of its family in tests/cases/, with its formula written a second time;
`tests/test_battery.py` then runs all its tests on it, at every place of tests/places.py. The formulas are
slow and plain, in float64, and owe nothing to deepcore's own code.
"""

import importlib
import pkgutil

from tests import cases
from tests.case import Case

_FAMILIES = sorted(family.name for family in pkgutil.iter_modules(cases.__path__))

CASES: list[Case] = [
    case for family in _FAMILIES for case in importlib.import_module(f"tests.cases.{family}").CASES
]
