"""Questions and answers from your own rows: JSONL, JSON, CSV, parquet, or a dataset of the hub.

`--task.data mine.jsonl` names the rows, and `--task.check` how an answer is checked: exact, number,
choice, math, or your own function as file.py:function. The layouts of verl, GSM8K and TRL are
recognised, and any other columns can be named.
"""

from tinyzero.tasks.rows.task import Rows as TASK

__all__ = ["TASK", "layouts"]
