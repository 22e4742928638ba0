"""The page of `tinyzero play --web`, and the small web server that `tinyzero watch` uses too."""

__all__ = ["play", "server"]
