"""Settings of the whole suite."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes at once: one thread each, or they wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_runtest_setup(item):
    if item.get_closest_marker("slow") is not None and os.environ.get("FUNCEBM_SLOW") != "1":
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
