"""deepcore against the single-node cases of onnx.backend.test."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import pytest

from tests.conformance.listed import NotMapped
from tests.conformance.onnx_nodes import NO_MATTER, NODES, OUTSIDE, SEVERAL, Node, Translator

onnx = pytest.importorskip("onnx", reason="needs onnx, whose node tests these are: deepcore[conformance]")

SUITE = "ONNX: single-node cases"
OPERATORS: dict[str, tuple[str, Translator]] = {
    op: (family, translate) for family, table in NODES.items() for op, translate in table.items()
}


@functools.cache
def cases() -> list[Any]:
    """Every node case that onnx generates."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of the suite's own arithmetic
        return collect_testcases(None)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_node(counted, case):
    operators = [node.op_type for node in case.model.graph.node]
    family, translate = OPERATORS.get(operators[0], ("outside", None)) if operators else ("outside", None)
    if len(operators) != 1:
        counted(SUITE, "outside", "several nodes")
        raise NotMapped(SEVERAL)
    counted(SUITE, family, operators[0])
    if translate is None:
        raise NotMapped(OUTSIDE)
    for inputs, wanted in case.data_sets:
        node = as_node(case.model.graph, inputs)
        got = translate(node)
        assert len(got) == len(node.outputs)
        assert set(node.attributes) <= node.looked_at | set(NO_MATTER), "an attribute that nothing looks at"
        pairs = [(Y, name) for Y, name in zip(got, node.outputs, strict=True) if name]
        assert pairs[0][0] is not None
        for (Y, name), right in zip(pairs, wanted, strict=True):
            if Y is not None:
                assert Y.dtype == right.dtype, f"{name} is {Y.dtype}, not {right.dtype}"
                assert Y.shape == right.shape, f"{name} is {Y.shape}, not {right.shape}"
                np.testing.assert_allclose(Y, right, rtol=case.rtol, atol=case.atol, err_msg=name)


def as_node(graph: Any, inputs: Any) -> Node:
    """The graph's only node with its inputs by position."""
    (node,) = graph.node
    values = dict(zip((x.name for x in graph.input), inputs, strict=True))
    values |= {x.name: onnx.numpy_helper.to_array(x) for x in graph.initializer}
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return Node(node.op_type, attributes, [values.get(name) for name in node.input], list(node.output))


def test_every_mapped_operator_is_in_the_suite():
    there = {node.op_type for case in cases() for node in case.model.graph.node}
    assert set(OPERATORS) <= there
