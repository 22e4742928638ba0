"""The pages of `tinyzero report` and `tinyzero watch`: curves, scores and written answers of runs.

`read` takes a run's files as streams; `alarms`, `samples`, `charts` and `compare` choose what is
worth seeing in them; `story` puts it in one dictionary; `page` and `watch` give that to the
browser, where the scripts in page/ draw it.
"""

__all__ = ["alarms", "page", "read", "watch"]
