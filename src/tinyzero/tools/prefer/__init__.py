"""`tinyzero prefer`: a reward model from pairs of answers, one chosen and one rejected."""

__all__ = ["options", "pairs", "training"]
