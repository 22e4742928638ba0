"""`tinyzero plan`: its pages, and the calibration of a CPU."""

__all__ = ["calibrate", "page"]
