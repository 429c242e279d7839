"""What is timed stays on its cores, and only while it is timed."""

from __future__ import annotations

import os
import threading

import pytest
from mopt.runtime.profiler import pinned
from mopt.runtime.profiler.pinning import _cores, _current

linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity of threads")


@linux
def test_a_thread_and_those_it_starts_stay_on_its_core():
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("one core leaves no choice")
    seen = []
    with pinned(1) as cores:
        assert os.sched_getaffinity(0) == set(cores) and len(cores) == 1
        thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
        assert _current() in cores
    assert seen == [set(cores)]
    assert os.sched_getaffinity(0) == before


@linux
def test_it_is_undone_after_an_error_and_does_nothing_without_a_choice(monkeypatch):
    before = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError), pinned(1):
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == before
    with pinned(len(before)) as cores:
        assert cores == ()

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with pinned(1) as cores:
        assert cores == ()


def test_a_system_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pinned(1) as cores:
        assert cores == ()


@pytest.mark.parametrize(
    ("threads", "current", "cores"), [(1, 3, (3,)), (2, 3, (3, 5)), (2, 7, (7, 1)), (1, 99, (1,)), (4, 1, ())]
)
def test_cores_begin_where_the_thread_runs(threads, current, cores):
    assert _cores([1, 3, 5, 7], threads, current) == cores
