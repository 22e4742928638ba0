"""Write a Python function from examples; hidden inputs test it in a sandbox.

`Write a Python function f such that f(3) == 11 and f(5) == 17` is right if the function returns
what is expected for inputs that the model has not seen. The functions are drawn from a small family
(numbers, lists of numbers, texts), or read from a file of rows in the form of HumanEval or MBPP:
`--task.data mbpp.jsonl`. The program runs in a sandbox: see docs/sandbox.md.
"""

from tinyzero.tasks.make_pass.task import TASK

__all__ = ["TASK"]
