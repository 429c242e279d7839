"""The static checker: a recipe file to a checked `Recipe`, or to everything that is wrong with it."""

from mopt.check.checker import CheckResult, check

__all__ = ["CheckResult", "check"]
