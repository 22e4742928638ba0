"""`tinyzero plan`: the table of GPUs, the page about one device, and a measurement here."""

__all__ = ["command", "measure", "page", "prices", "survey"]
