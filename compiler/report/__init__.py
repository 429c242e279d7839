"""The results of a build, as a terminal table, Markdown and JSON."""

from mopt.report.markdown import markdown_report
from mopt.report.results import Results
from mopt.report.terminal import print_results

__all__ = ["Results", "markdown_report", "print_results"]
