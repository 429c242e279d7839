"""Times that can be trusted: candidates timed against each other, with intervals and verdicts."""

from mopt.runtime.profiler.pinning import pinned
from mopt.runtime.profiler.rounds import CLOCK, profile
from mopt.runtime.profiler.timing import CONFIDENCE, Ratio, Timing, Verdict, median_interval, timing_of

__all__ = ["CLOCK", "CONFIDENCE", "Ratio", "Timing", "Verdict", "median_interval", "pinned", "profile", "timing_of"]
