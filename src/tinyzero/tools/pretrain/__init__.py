"""Makes tiny base models, such as the bundled ones."""

__all__ = ["base"]
