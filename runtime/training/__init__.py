"""Training a module: the loop that tuning, distilling and quantisation-aware training share. Needs the extra `torch`.

Nothing is imported here; see `mopt.runtime.training.loop.train` and `mopt.runtime.training.objective.Objective`.
"""
