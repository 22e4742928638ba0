"""The datasets of reasoning-gym, one or several at a time: algebra, logic, games, graphs and more.

Name them with `--task.datasets chain_sum,gcd`. Most have levels (`--task.level 2`) and settings
(`--task.config '{min_terms = 2}'`). A problem is right or wrong; a partial score of the package is
only logged. The package must be installed: `pip install 'tinyzero[reasoning]'`.
"""

from tinyzero.tasks.reasoning_gym.task import ReasoningGym as TASK

__all__ = ["TASK"]
