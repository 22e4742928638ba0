"""Making base models such as the bundled ones."""
