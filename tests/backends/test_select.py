"""Which library makes new arrays, how arrays move, and what an import costs."""

import asyncio
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore import BackendUnavailable, DTypeError, Linear, Net
from deepcore.backends import registry, select

strict = pytest.importorskip("array_api_strict", reason="needs array-api-strict")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """Each test starts with nothing selected, and leaves nothing behind."""
    monkeypatch.delenv("DEEPCORE_BACKEND", raising=False)
    monkeypatch.delenv("DEEPCORE_FALLBACK", raising=False)
    monkeypatch.setattr(select, "_selected", None)
    monkeypatch.setattr(select, "_default_dtype", "float32")


def name_of(x):
    return dc.backend_of(x).name


def selected():
    return name_of(dc.asarray([1.0]))


def python(code, *options, **environment):
    """What a fresh interpreter prints and warns of; its variables are those given and no others of ours."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DEEPCORE")}
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


WHICH = "import deepcore as dc; print(dc.backend_of(dc.asarray([1.0])).name)"


# ---- precedence


def test_numpy_is_the_default():
    assert selected() == "numpy"
    assert type(Linear(2, 2).weight["W"]) is np.ndarray


def test_the_variable_is_weakest(monkeypatch):
    monkeypatch.setenv("DEEPCORE_BACKEND", "array_api_strict")
    assert selected() == "array_api_strict"
    dc.set_backend("numpy")
    assert selected() == "numpy"


def test_the_variable_is_read_at_first_use(monkeypatch):
    monkeypatch.setenv("DEEPCORE_BACKEND", "array_api_strict")
    assert selected() == "array_api_strict"
    monkeypatch.setenv("DEEPCORE_BACKEND", "numpy")
    assert selected() == "array_api_strict"


def test_a_context_is_stronger_than_a_call():
    dc.set_backend("array_api_strict")
    assert selected() == "array_api_strict"
    with dc.use_backend("numpy"):
        assert selected() == "numpy"
        with dc.use_backend("array_api_strict"):
            assert selected() == "array_api_strict"
        assert selected() == "numpy"
        dc.set_backend("numpy")
    assert selected() == "numpy"


def test_a_context_ends_with_an_error_too():
    with pytest.raises(ZeroDivisionError), dc.use_backend("array_api_strict"):
        _ = 1 / 0
    assert selected() == "numpy"


def test_the_array_handed_in_is_strongest(monkeypatch):
    """Data decides where work runs; the selection decides only where new arrays are made."""
    monkeypatch.setenv("DEEPCORE_BACKEND", "array_api_strict")
    dc.set_backend("array_api_strict")
    with dc.use_backend("array_api_strict"):
        new = Linear(2, 2)
        Y = dc.Tanh()(np.ones((2, 2)))
        drawn = dc.Dropout(0.5)(np.ones((2, 2)))
    assert name_of(new.weight["W"]) == "array_api_strict"
    assert type(Y) is type(drawn) is np.ndarray
    with dc.use_backend("numpy"):
        assert name_of(new(strict.ones((2, 2)))) == "array_api_strict"


def test_asarray_goes_to_the_selected_backend_wherever_the_array_is():
    x = strict.asarray([1.0, 2.0])
    assert type(dc.asarray(x)) is np.ndarray
    with dc.use_backend("array_api_strict"):
        assert dc.asarray(x) is x
        assert name_of(dc.asarray(np.ones(2))) == "array_api_strict"


@pytest.mark.parametrize("alias", ["cpu", "strict"])
def test_aliases(alias):
    with dc.use_backend(alias):
        assert selected() == {"cpu": "numpy", "strict": "array_api_strict"}[alias]


def test_weights_are_made_where_new_arrays_are_and_with_the_same_bits():
    dc.seed(0)
    right = Linear(5, 4).weight["W"]
    with dc.use_backend("array_api_strict"):
        dc.seed(0)
        ours = Linear(5, 4, device="device1").weight["W"]
    assert name_of(ours) == "array_api_strict"
    assert ours.device == strict.Device("device1")
    assert np.array_equal(dc.to_numpy(ours), right)


# ---- what is not there


def test_available_backends():
    names = dc.available_backends()
    assert "numpy" in names and "array_api_strict" in names
    assert len(names) == len(set(names))


@pytest.mark.parametrize("choose", [dc.set_backend, lambda name: dc.use_backend(name).__enter__()])
def test_an_unknown_backend_is_refused_with_those_that_there_are(choose):
    with pytest.raises(BackendUnavailable, match="'nonsense'.*numpy.*array_api_strict") as error:
        choose("nonsense")
    assert isinstance(error.value, RuntimeError)
    assert selected() == "numpy"


def test_a_backend_that_cannot_work_is_refused_with_the_reason_and_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "array_api_strict", None)
    monkeypatch.setattr(registry, "_live", {"numpy": dc.backend_of(np.ones(1))})
    with pytest.raises(BackendUnavailable) as error:
        dc.set_backend("array_api_strict")
    message = str(error.value)
    assert "backend 'array_api_strict' is not usable here" in message
    assert "pip install array-api-strict" in message
    assert "array_api_strict" not in dc.available_backends()
    monkeypatch.setenv("DEEPCORE_FALLBACK", "silent")  # only the variable's choice may fall back
    with pytest.raises(BackendUnavailable), dc.use_backend("array_api_strict"):
        pass


def test_auto_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dc.set_backend("auto")
    expected = "cupy" if "cupy" in dc.available_backends() else "numpy"
    assert selected() == expected


def test_a_variable_that_cannot_be_met_warns_and_goes_on_with_numpy():
    done = python(WHICH, DEEPCORE_BACKEND="nonsense")
    assert done.returncode == 0
    assert done.stdout.strip() == "numpy"
    assert "BackendFallbackWarning: DEEPCORE_BACKEND: there is no backend 'nonsense'" in done.stderr
    assert "Going on with numpy, on the CPU" in done.stderr
    assert done.stderr.count("BackendFallbackWarning") == 1


def test_a_variable_that_cannot_be_met_may_be_silent():
    done = python(WHICH, "-W", "error", DEEPCORE_BACKEND="nonsense", DEEPCORE_FALLBACK="silent")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "numpy", "")


def test_a_variable_that_cannot_be_met_may_be_an_error():
    done = python(WHICH, DEEPCORE_BACKEND="nonsense", DEEPCORE_FALLBACK="error")
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("deepcore.errors.BackendUnavailable: there is no backend 'nonsense'")


def test_the_warning_names_the_line_that_first_needed_a_backend():
    code = "import deepcore as dc\n\ndc.asarray([1.0])"
    done = python(code, DEEPCORE_BACKEND="nonsense")
    assert "<string>:3:" in done.stderr


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"DEEPCORE_BACKEND": "array_api_strict"}, "array_api_strict"),
        ({"DEEPCORE_BACKEND": "auto"}, None),
        ({"DEEPCORE_BACKEND": ""}, "numpy"),  # as shells unset a variable for one command
        ({"DEEPCORE_FALLBACK": "error"}, "numpy"),
    ],
    ids=["strict", "auto", "empty", "only fallback"],
)
def test_variables_that_can_be_met_are_silent(environment, name):
    done = python(WHICH, "-W", "error", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == (name or done.stdout.strip())


def test_a_fallback_that_there_is_not():
    done = python(WHICH, DEEPCORE_FALLBACK="never", DEEPCORE_BACKEND="numpy")
    assert "DEEPCORE_FALLBACK must be error, warn or silent, got 'never'" in done.stderr


def test_an_explicit_choice_raises_whatever_the_variable_says():
    code = "import deepcore as dc; dc.set_backend('nonsense')"
    for fallback in ("silent", "warn", "error"):
        done = python(code, DEEPCORE_FALLBACK=fallback)
        assert done.returncode == 1
        assert "BackendUnavailable" in done.stderr


# ---- threads and tasks


def test_a_context_holds_in_one_thread_only():
    seen = {}

    def other():
        seen["other"] = selected()
        with dc.use_backend("numpy"):
            ready.set()
            done.wait(10)
            seen["inside"] = selected()

    ready, done = threading.Event(), threading.Event()
    with dc.use_backend("array_api_strict"):
        thread = threading.Thread(target=other)
        thread.start()
        assert ready.wait(10)
        seen["here"] = selected()
        done.set()
        thread.join()
    assert seen == {"other": "numpy", "here": "array_api_strict", "inside": "numpy"}


def test_a_call_holds_in_every_thread():
    dc.set_backend("array_api_strict")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(selected()))
    thread.start()
    thread.join()
    assert seen == ["array_api_strict"]


def test_a_context_holds_in_one_task_only():
    async def work(name):
        with dc.use_backend(name):
            await asyncio.sleep(0.001)
            first = selected()
            await asyncio.sleep(0.001)
            return first, selected()

    async def main():
        return await asyncio.gather(work("array_api_strict"), work("numpy"))

    assert asyncio.run(main()) == [("array_api_strict",) * 2, ("numpy",) * 2]


# ---- asarray, to_backend, to_numpy


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (1.5, "float32"),
        ([1.0, 2], "float32"),
        (((1.0, 2.0), (3.0, 4.0)), "float32"),
        ([np.float64(1.0)], "float32"),  # a list of numbers, whatever numbers
        (3, "int64"),
        ([1, 2], "int64"),
        (True, "bool"),
        ([True, False], "bool"),
        ([], "float32"),
        (1j, "complex128"),
        (np.ones(2), "float64"),
        (np.float64(1.0), "float64"),
        (np.ones(2, "int8"), "int8"),
        (range(3), "int64"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("backend", ["numpy", "array_api_strict"])
def test_asarray_gives_python_floats_the_default_dtype_and_arrays_their_own(x, dtype, backend):
    with dc.use_backend(backend):
        ours = dc.asarray(x)
    assert name_of(ours) == backend
    assert select.dtype_name(ours) == dtype
    assert np.array_equal(dc.to_numpy(ours), np.asarray(x))


def test_asarray_leaves_float16_as_it_is():
    assert dc.asarray(np.ones(2, "float16")).dtype == np.float16


def test_asarray_of_a_numpy_scalar_is_an_array():
    assert isinstance(dc.asarray(np.float64(3)), np.ndarray)


def test_asarray_takes_a_dtype_and_leaves_arrays_that_fit():
    x = np.ones(3, "float32")
    assert dc.asarray(x) is x
    assert dc.asarray(x, dtype="float32") is x
    for dtype in ("float64", np.float64, np.dtype("float64"), strict.float64, float):
        assert dc.asarray(x, dtype=dtype).dtype == np.float64
    assert dc.asarray([1, 2], dtype="float32").dtype == np.float32
    with dc.use_backend("array_api_strict"):
        assert dc.asarray(x, dtype=np.float64).dtype == strict.float64
        assert dc.asarray(x, device="device1").device == strict.Device("device1")


@pytest.mark.parametrize(
    "x",
    ["abc", ["a"], [object()], None, [[1.0], [1.0, 2.0]]],
    ids=["text", "texts", "objects", "None", "ragged"],
)
def test_asarray_refuses_what_is_no_number(x):
    with pytest.raises((DTypeError, ValueError)):
        dc.asarray(x)


def test_asarray_takes_frames():
    class Frame:
        def __array__(self, dtype=None, copy=None):
            return np.array([[1.0, 2.0]], dtype=dtype)

    assert dc.asarray(Frame()).dtype == np.float64  # an array's own
    with dc.use_backend("array_api_strict"):
        assert dc.asarray(Frame()).shape == (1, 2)


def test_to_backend_and_to_numpy():
    x = np.arange(6.0).reshape(2, 3)[:, ::-1]
    x.flags.writeable = False
    there = dc.to_backend(x, "array_api_strict", device="device1")
    assert there.device == strict.Device("device1") and there.dtype == strict.float64
    assert dc.to_backend(there, "array_api_strict") is there
    back = dc.to_numpy(there)
    assert type(back) is np.ndarray and np.array_equal(back, x)
    assert dc.to_numpy(x) is x
    assert dc.to_numpy([1, 2]).tolist() == [1, 2]
    assert type(dc.to_backend(there, "numpy")) is np.ndarray
    with pytest.raises(BackendUnavailable, match="nonsense"):
        dc.to_backend(x, "nonsense")


def test_namespaces_and_backends_of_arrays():
    x, s = np.ones(2), strict.ones(2)
    assert dc.array_namespace(x) is np and dc.array_namespace(x, x) is np
    assert dc.array_namespace(s) is strict
    assert dc.backend_of(x, np.float32(1)).name == "numpy"
    for ask in (dc.array_namespace, dc.backend_of):
        with pytest.raises(dc.MixedBackendError, match=r"'numpy' and 'array_api_strict'.*to_backend"):
            ask(x, s)
        with pytest.raises(DTypeError, match=r"builtins\.list is no array.*deepcore\.asarray"):
            ask([1.0])
    dc.synchronize()


# ---- the default dtype


@pytest.mark.parametrize("dtype", ["float64", np.float64, np.dtype("float64"), strict.float64, float])
def test_the_default_dtype_is_that_of_new_weights_and_python_floats(dtype):
    assert dc.default_dtype() == "float32"
    assert Linear(2, 2).weight["W"].dtype == np.float32
    dc.set_default_dtype(dtype)
    assert dc.default_dtype() == "float64"
    assert dc.asarray(1.5).dtype == np.float64
    assert dc.asarray(np.ones(1, "float32")).dtype == np.float32
    layers = [Linear(2, 2), dc.Conv2D(1, 1), dc.BatchNorm2D(2)]
    arrays = Net(layers).parameters() | Net(layers).buffers()
    assert {str(W.dtype) for W in arrays.values()} == {"float64"}
    assert Linear(2, 2, dtype="float32").weight["W"].dtype == np.float32


@pytest.mark.parametrize("dtype", ["int32", int, np.int64, "bool", "complex64", "nonsense"])
def test_a_default_dtype_that_is_no_float(dtype):
    with pytest.raises(DTypeError, match="set_default_dtype: wanted one of .*float32.*, got"):
        dc.set_default_dtype(dtype)
    assert dc.default_dtype() == "float32"


# ---- moving a net


def test_a_net_moves_and_comes_back():
    dc.seed(0)
    net = Net([Linear(2, 3), dc.ReLU(), Linear(3, 2)], dc.CrossEntropyLoss(weight=[1.0, 2.0]))
    before = net.parameters() | net.buffers()
    X, y = np.ones((4, 2), "float32"), np.array([0, 1, 1, 0])
    net.loss(net(X), y)
    net.backward()
    assert net.to("array_api_strict", device="device1") is net
    moved = net.parameters() | net.buffers()
    assert {name_of(W) for W in moved.values()} == {"array_api_strict"}
    assert {W.device for W in moved.values()} == {strict.Device("device1")}
    assert not net.gradients()  # those were numpy's
    with pytest.raises(dc.StateError):
        net.update_weights(0.1)
    out = net(dc.to_backend(X, "array_api_strict", device="device1"))
    net.loss(out, dc.to_backend(y, "array_api_strict", device="device1"))
    net.backward()
    net.update_weights(0.0)
    net.to("numpy")
    for path, W in (net.parameters() | net.buffers()).items():
        assert np.array_equal(W, before[path])


def test_a_move_that_fails_moves_nothing():
    net = Net([Linear(2, 3)])
    before = net.parameters()
    with pytest.raises(BackendUnavailable, match="nonsense"):
        net.to("nonsense")
    assert all(net.parameters()[path] is W for path, W in before.items())


def test_a_pass_does_not_survive_a_move():
    """The record holds arrays of the library that the net has left."""
    net = Net([Linear(2, 3)])
    out = net(np.ones((4, 2), "float32"))
    net.to("array_api_strict")
    with pytest.raises(dc.DeepcoreError):
        net.backward(out)


# ---- the import

HEAVY = [
    "array_api_compat.numpy",
    "array_api_strict",
    "cupy",
    "jax",
    "jaxlib",
    "matplotlib",
    "numba",
    "pandas",
    "PIL",
    "scipy",
    "sklearn",
    "torch",
]


def test_import_brings_numpy_and_nothing_heavier():
    code = (
        "import sys, deepcore as dc\n"
        f"heavy = {HEAVY}\n"
        "print(sorted(name for name in heavy if name in sys.modules))\n"
        "assert 'numpy' in sys.modules\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_training_on_numpy_brings_nothing_heavier_either():
    code = (
        "import os; os.environ['DEEPCORE_NUMBA'] = '0'\n"
        "import sys, numpy as np, deepcore as dc\n"
        "net = dc.Net([dc.Conv2D(1, 2), dc.BatchNorm2D(2), dc.ReLU(), dc.MaxPool2D(2), dc.Dropout(), "
        "dc.Flatten(), dc.Linear(2, 2)], dc.CrossEntropyLoss())\n"
        "net.fit(np.ones((4, 1, 4, 4)), np.array([0, 1, 0, 1]), optimizer=dc.optim.Adam())\n"
        "net.predict(np.ones((4, 1, 4, 4)))\n"
        f"print(sorted(name for name in {HEAVY} if name in sys.modules))\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_import_needs_no_optional_package():
    missing = [name for name in HEAVY if "." not in name]
    code = f"import sys\nfor name in {missing}: sys.modules[name] = None\nimport deepcore; print('fine')"
    done = python(code)
    assert done.stdout.strip() == "fine", done.stderr


def test_import_reads_no_backend_variable():
    done = python("import deepcore", "-W", "error", DEEPCORE_BACKEND="nonsense", DEEPCORE_FALLBACK="error")
    assert (done.returncode, done.stderr) == (0, "")
