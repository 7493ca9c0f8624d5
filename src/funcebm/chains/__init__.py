"""Many chains of one sampler: :func:`sample` and :func:`resume`, and what may be kept of their draws."""

from . import reducers
from .sampling import Run, Samples, resume, sample

__all__ = ["Run", "Samples", "reducers", "resume", "sample"]
