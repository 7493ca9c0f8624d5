"""Benchmarks: ``python -m tests.benchmarks.compare`` and ``python -m tests.benchmarks.memory``."""
