"""`tinyzero plan`: the table of GPUs, the page about one device, and a measurement here."""

__all__ = ["measure", "page", "prices", "survey"]
