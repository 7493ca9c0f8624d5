"""Settings of the whole suite."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes at once: one thread each, or they wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")
