"""Killed, interrupted, run twice at once, out of disk: nothing finished is lost, nothing half-written stays."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

RECIPE = """
model linear = example(size=64)
pipeline a = linear {{
    prune.magnitude(amount=50%)
    example.slow(log="{log}")
    example.negate()
}}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "r.mopt").write_text(RECIPE.format(log=tmp_path / "ran"), encoding="utf-8")
    return tmp_path


def start(folder, site, *arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mopt.cli.main", "compile", "r.mopt", "--store", "store", "--profile", "never"]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for_slow_step(folder, process, lines=1):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (folder / "ran").exists() and len((folder / "ran").read_text(encoding="utf-8").splitlines()) >= lines:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("the slow step never started")


def leftovers(folder):
    parts = [p for p in folder.rglob("*") if p.name.startswith(".part-")]
    return parts + list((folder / "store" / "v1" / "tmp").iterdir())


def finish(folder, site):
    (folder / "fast").touch()
    process = start(folder, site, "--json")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return json.loads(output)


def test_killed_in_a_step_resumes_at_the_last_finished_one(recipe, example_site):
    process = start(recipe, example_site)
    wait_for_slow_step(recipe, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list((recipe / "build").rglob("*.onnx"))
    steps = finish(recipe, example_site)["steps"]["a"]
    assert [step["cached"] for step in steps] == [True, False, False]
    assert leftovers(recipe) == []


def test_ctrl_c_says_how_to_go_on(recipe, example_site):
    process = start(recipe, example_site)
    wait_for_slow_step(recipe, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command to go on" in errors
    assert "Traceback" not in errors
    assert leftovers(recipe) == []
    assert [step["cached"] for step in finish(recipe, example_site)["steps"]["a"]] == [True, False, False]


def test_two_compiles_at_once_both_succeed_and_share_the_work(recipe, example_site):
    first = start(recipe, example_site, "--json")
    wait_for_slow_step(recipe, first)
    second = start(recipe, example_site, "--json")
    time.sleep(2)
    assert first.poll() is None
    assert second.poll() is None
    (recipe / "fast").touch()
    results = []
    for process in (first, second):
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        results.append(json.loads(output))
    assert (recipe / "ran").read_text(encoding="utf-8") == "started\n"
    assert results[0]["rows"] == results[1]["rows"]
    assert all(step["cached"] for step in results[1]["steps"]["a"])


def test_two_output_folders_over_one_store_agree(recipe, example_site):
    (recipe / "fast").touch()
    processes = [start(recipe, example_site, "-o", name) for name in ("one", "two")]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    hashes = {hashlib.sha256((recipe / name / "a/ort/model.onnx").read_bytes()).hexdigest() for name in ("one", "two")}
    assert len(hashes) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="file size limits need a POSIX system")
def test_no_room_for_a_file_keeps_what_was_finished(recipe, example_site):
    import resource

    (recipe / "fast").touch()
    (recipe / "r.mopt").write_text(
        "model linear = example(size=4000)\n"
        "pipeline a = linear { prune.magnitude(amount=50%) }\npipeline b = linear { example.negate() }\n",
        encoding="utf-8",
    )

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = start(recipe, example_site, preexec_fn=limited)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert "Traceback" not in errors
    assert "File too large" in errors
    assert leftovers(recipe) == []
    assert finish(recipe, example_site)["exit_status"] == 0
