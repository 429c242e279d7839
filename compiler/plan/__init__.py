"""The plan: which steps a recipe needs, in which order, and which of them are shared."""

from mopt.plan.plan import Plan, PlannedPipeline, PlanStep, Stop, make_plan

__all__ = ["Plan", "PlanStep", "PlannedPipeline", "Stop", "make_plan"]
