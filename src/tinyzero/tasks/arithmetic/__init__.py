"""Reading the arithmetic in what a model wrote, for every task about numbers."""

__all__ = ["chains", "expressions", "steps", "thinking"]
