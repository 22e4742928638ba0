"""Multiplication of two whole numbers."""

from tinyzero.tasks.multiplication.task import Multiplication, MultiplicationOptions

__all__ = ["Multiplication", "MultiplicationOptions"]

TASK = Multiplication
