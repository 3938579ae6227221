"""Engines: how the trials of a study are run. The study asks; an engine yields results as they come.

``batched`` trains a method's trials as one stacked model, ``process`` one by one in worker processes, ``ray`` one by
one on many machines. All follow :mod:`minimand.study.training`, and give the same numbers to float tolerance.
"""

from minimand.study.engines.job import ENGINES, Engine, Job, engine

__all__ = ["ENGINES", "Engine", "Job", "engine"]
