"""The page of `tinyzero play --web`, and the small server behind it and `tinyzero watch`."""

__all__ = ["play", "server"]
