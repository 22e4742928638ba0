"""Making tiny base models, such as those that ship."""

__all__ = ["base"]
