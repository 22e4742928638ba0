"""TinyZero: watch a language model teach itself to search and verify, from rewards alone."""

__version__ = "0.1.0"
