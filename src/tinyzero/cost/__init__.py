"""What a recipe needs and costs: model shapes, devices, FLOPs, memory and time."""

__all__ = ["devices", "shapes", "simulator", "words"]
