"""Many chains of one sampler: :func:`sample` and :func:`resume`, and what may be kept of their draws."""

from . import reducers
from .files import load, save
from .sampling import Run, Samples, resume, sample

__all__ = ["Run", "Samples", "load", "reducers", "resume", "sample", "save"]
