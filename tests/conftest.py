"""Settings of the whole suite.

``pytest -m "not slow"`` is the fast part. Slow are, in two degrees: tests that are marked so in their files, which run with
``FUNCEBM_SLOW=1`` only; and by the rules below what compiles, what needs many draws, and most of what is swept over tables, which
all run in the whole suite.
"""

import os
import zlib

import pytest

LONG = (  # folders and files of tests that take minutes together
    "tests/adaptation/test_chees",
    "tests/adaptation/test_default",
    "tests/adaptation/test_mclmc",
    "tests/adaptation/test_meads",
    "tests/adaptation/test_parts",
    "tests/adaptation/test_posteriors",
    "tests/adaptation/test_stuck_chains",
    "tests/adaptation/test_warm_up_mapped",
    "tests/adaptation/test_window",
    "tests/benchmarks",
    "tests/diagnostics/test_funnel",
    "tests/energies/test_discrete_exact",
    "tests/flows",
    "tests/integrators/test_riemannian",
    "tests/losses/test_likelihood_minimisers",
    "tests/losses/test_two_dimensional_sets",
    "tests/ranks",
    "tests/samplers/test_clusters",
    "tests/samplers/test_energies_that_fail",
    "tests/samplers/test_invariance",
    "tests/samplers/test_nuts_laws",
    "tests/samplers/test_riemannian_hmc",
    "tests/samplers/test_svgd",
    "tests/test_devices",
    "tests/test_main",
    "tests/test_notebooks",
    "tests/test_random_laws",
    "tests/test_trial",
    "notebooks",
)
SWEEPS = (  # one test in sixteen of them is of the fast part, and of other tests with parameters one in six
    "tests/test_contracts",
    "tests/losses/test_every_loss",
    "tests/samplers/test_discrete",
    "tests/samplers/test_informed_kernels",
    "tests/diagnostics/test_against_arviz",
    "src/funcebm",
)


@pytest.hookimpl(tryfirst=True)  # before ``-m`` is looked at
def pytest_collection_modifyitems(items):
    for item in items:
        of = 16 if item.nodeid.startswith(SWEEPS) else 6 if "[" in item.nodeid else 1
        is_swept = zlib.crc32(item.nodeid.encode()) % of
        if is_swept or item.nodeid.startswith(LONG) or item.get_closest_marker("compiled") is not None:
            item.add_marker(pytest.mark.slow(is_run=True))


if "PYTEST_XDIST_WORKER" in os.environ:  # several processes at once: one thread each, or they wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_runtest_setup(item):
    is_left_out = any(not marker.kwargs.get("is_run") for marker in item.iter_markers("slow"))
    if is_left_out and os.environ.get("FUNCEBM_SLOW") != "1":
        pytest.skip("slow: FUNCEBM_SLOW=1 runs it")
    if item.get_closest_marker("compiled") is not None:
        from funcebm import transforms

        if not transforms.can_compile():
            pytest.skip("there is no compiler")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A test that compiles says so, for ``pytest -m compiled``."""
    from tests.helpers import counted

    if item.get_closest_marker("compiled") is not None:
        return (yield)
    with counted() as counts:
        result = yield
    assert counts.traces == 0, "this test compiles: mark it with pytest.mark.compiled"
    return result


@pytest.fixture
def op_by_op():
    """See :func:`tests.helpers.op_by_op`."""
    from tests import helpers

    with helpers.op_by_op():
        yield
