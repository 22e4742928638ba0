"""What a recipe needs and costs: shapes, devices, FLOPs and the simulator."""

__all__ = ["devices", "shapes", "simulator"]
