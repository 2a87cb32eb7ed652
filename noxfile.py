"""Every check of this house: `nox` runs them all, `nox -s fmt` formats.

Each session makes its own environment once and keeps it. In an environment that has
`deepcore[dev]` already, `nox --no-venv --no-install` runs the same commands at once.
"""

import nox

nox.needs_version = ">=2024.10"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "imports", "tests"]

DEV = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["dev"]


def tool(name: str) -> str:
    """The requirement of a tool, as the extra `dev` of pyproject.toml has it."""
    return next(requirement for requirement in DEV if requirement.startswith(name))


@nox.session
def lint(session: nox.Session) -> None:
    """Style and formatting."""
    session.install(tool("ruff"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def fmt(session: nox.Session) -> None:
    """Format, and mend what can be mended."""
    session.install(tool("ruff"))
    session.run("ruff", "check", "--fix")
    session.run("ruff", "format")


@nox.session
def types(session: nox.Session) -> None:
    """Types."""
    session.install("-e", ".[test]", tool("pyright"))
    session.run("pyright")


@nox.session
def imports(session: nox.Session) -> None:
    """Which room may import from which."""
    session.install("-e", ".", tool("import-linter"))
    session.run("lint-imports")


@nox.session
def tests(session: nox.Session) -> None:
    """The suite, the doctests and the README; `nox -s tests -- -n 2` uses two processes."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def tests_backends(session: nox.Session) -> None:
    """The same suite with torch and JAX beside it, so that nothing skips for want of them."""
    session.install("-e", ".[test]", "torch==2.13.0", "jax")
    session.run("pytest", *session.posargs)


@nox.session
def widths(session: nox.Session) -> None:
    """The tests of the compiled kernels, as for processors with AVX2 alone and with AVX-512, on any."""
    session.install("-e", ".[test,fast]")
    for width in "tests.narrow", "tests.wide":
        session.run("pytest", "-p", width, "tests/ops", "tests/accuracy", "tests/layers", *session.posargs)


@nox.session
def conformance(session: nox.Session) -> None:
    """The suites of torch and ONNX, run against deepcore; the counts are written to docs/conformance.md."""
    session.install("-e", ".[test,conformance]", "torch==2.13.0")  # the tables in tests/conformance are of it
    session.run("pytest", "tests/conformance", "--conformance-page=docs/conformance.md", *session.posargs)


@nox.session
def kernels(session: nox.Session) -> None:
    """The CUDA kernels with no GPU: compiled by NVRTC, with the registers that each uses, and run by g++."""
    session.install("-e", ".[test,kernels]")
    page = "--kernels-page=bench/results/kernels-cuda.md"
    session.run("pytest", "tests/gpu", "-m", "not gpu", page, *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The kernels' times, table and picture; `nox -s bench -- --quick` only looks, and writes none."""
    session.install("-e", ".[bench]", "array-api-strict>=2.3")
    if session.posargs:
        session.run("pytest", "bench", *session.posargs)
        return
    session.run("pytest", "bench", "--benchmark-json=bench/results/kernels.json")
    session.run("python", "bench/report.py")


@nox.session
def compare(session: nox.Session) -> None:
    """deepcore beside torch, JAX, scikit-learn, plain NumPy; `nox -s compare -- --rows MLP` for some rows."""
    session.install("-e", ".[bench,fast,sklearn]", "torch==2.13.0", "jax")
    session.run("python", "-m", "bench.compare", *session.posargs)
    if not session.posargs:
        session.run("python", "-m", "bench.compare.scaling")
