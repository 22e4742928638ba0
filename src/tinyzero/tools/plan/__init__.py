"""`tinyzero plan`: its pages, and the calibration of a CPU."""
