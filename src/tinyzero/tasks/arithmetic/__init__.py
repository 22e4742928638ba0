"""Reading arithmetic in what a model wrote, for every task that is about numbers."""

__all__ = ["chains", "expressions", "steps", "thinking"]
