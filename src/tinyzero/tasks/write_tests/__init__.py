"""Tests that catch bugs: write tests for a small function with branches.

A test is data, such as `f(3)=11`. TinyZero runs the tests on the function and on its mutants, which
are copies with one number changed. Nothing that a model writes is run.
"""

from tinyzero.tasks.write_tests.task import WriteTests, WriteTestsOptions

__all__ = ["WriteTests", "WriteTestsOptions"]

TASK = WriteTests
"""The task `write-tests`."""
