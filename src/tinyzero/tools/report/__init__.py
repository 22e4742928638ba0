"""`tinyzero report` and `tinyzero watch`: a run as pictures and readable samples, in one page without a network.

read.py takes the run's files as streams; alarms.py, samples.py and charts.py say what is worth seeing in them;
story.py makes a small dictionary of it; page.py and watch.py hand that to the browser, where page/ draws it.
"""

__all__ = ["page", "watch"]
