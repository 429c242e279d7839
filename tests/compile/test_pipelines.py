"""What becomes of pipelines: results, failures, requirements, and what the store saves."""

import json

import onnx
import pytest
from mopt.driver import RecipeError
from mopt.report.table import columns, footnotes
from mopt.runtime.contract import TargetError


def test_rows_hold_measured_figures(compiled):
    results = compiled(
        """
        pipeline plain = linear { }
        pipeline half = plain { prune.magnitude(amount=50%) }
        """
    )
    rows = compiled.rows(results)
    assert results.exit_status == 0
    assert rows["plain"].parameters == rows["plain"].nonzero == 192
    assert rows["half"].nonzero == 96
    assert rows["plain"].macs == 192
    emitted = compiled.folder / "out" / rows["half"].artifact
    assert emitted.stat().st_size == rows["half"].bytes
    onnx.checker.check_model(onnx.load(emitted), full_check=True)
    assert rows["plain"].metrics["largest"] != rows["half"].metrics["largest"]


def test_emitted_models_carry_no_provenance(compiled):
    row = compiled.rows(compiled("pipeline a = linear { prune.magnitude(amount=50%) }"))["a"]
    data = (compiled.folder / "out" / row.artifact).read_bytes()
    assert b"mopt.origins" not in data


def test_output_folder_holds_report_manifest_and_diffs(compiled):
    compiled("pipeline a = linear { prune.magnitude(amount=50%) example.negate() }")
    out = compiled.folder / "out"
    assert json.loads((out / "results.json").read_text(encoding="utf-8"))["rows"][0]["pipeline"] == "a"
    assert "| a |" in (out / "results.md").read_text(encoding="utf-8")
    assert sorted(p.name for p in (out / "a/diff").iterdir()) == [
        "1-prune.magnitude.json",
        "1-prune.magnitude.txt",
        "2-example.negate.json",
        "2-example.negate.txt",
    ]
    manifest = json.loads((out / "build.json").read_text(encoding="utf-8"))
    assert len(manifest["pipelines"]["a"]["steps"]) == 2


def test_a_second_run_does_no_pass_work(compiled, tmp_path):
    log = tmp_path / "ran"
    (tmp_path / "fast").touch()
    body = f'pipeline a = linear {{ example.slow(log="{log}") prune.magnitude(amount=50%) }}'
    first = compiled(body)
    assert compiled.log.count("a@") == 2
    again = compiled(body)
    assert compiled.log == ""
    assert log.read_text(encoding="utf-8") == "started\n"
    assert [row.to_json() for row in first.rows] == [row.to_json() for row in again.rows]
    assert all(step.cached for step in again.steps["a"])


def test_editing_a_line_runs_from_that_line(compiled, tmp_path):
    log = tmp_path / "ran"
    (tmp_path / "fast").touch()
    body = 'pipeline a = linear {{ example.slow(log="{}") prune.magnitude(amount={}) example.negate() }}'
    compiled(body.format(log, "50%"))
    results = compiled(body.format(log, "60%"))
    assert log.read_text(encoding="utf-8") == "started\n"
    assert [step.cached for step in results.steps["a"]] == [True, False, False]


def test_a_shared_prefix_runs_once(compiled, tmp_path):
    log = tmp_path / "ran"
    (tmp_path / "fast").touch()
    compiled(
        f"""
        pipeline a = linear {{ example.slow(log="{log}") prune.magnitude(amount=50%) }}
        pipeline b = linear {{ example.slow(log="{log}") prune.magnitude(amount=60%) }}
        """
    )
    assert log.read_text(encoding="utf-8") == "started\n"


def test_a_set_parameter_decides(compiled):
    body = "param share = 25%\npipeline a = linear { prune.magnitude(amount=share) }"
    assert compiled.rows(compiled(body))["a"].nonzero == 144
    assert compiled.rows(compiled(body, overrides={"share": "75%"}))["a"].nonzero == 48


def test_alternatives_are_rows_of_their_own(compiled):
    rows = compiled.rows(compiled("pipeline a = linear { prune.magnitude(amount=any(25%, 75%)) }"))
    assert {name: row.nonzero for name, row in rows.items()} == {"a[amount=25%]": 144, "a[amount=75%]": 48}
    assert all((compiled.folder / "out" / row.artifact).is_file() for row in rows.values())


# -- failures: one pipeline's never takes another's result


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("fail", "pass", "there is nothing to do here (node `product`)"),
        ("interface", "contract", "the outputs changed from y to z"),
        ("invalid", "contract", "from nowhere"),
        ("drift", "contract", "equal outputs within 0.0001"),
        ("raise", "bug", "something nobody expected"),
    ],
)
def test_a_bad_pass_fails_its_pipeline_alone(compiled, how, kind, said):
    results = compiled(
        f"""
        pipeline good = linear {{ prune.magnitude(amount=50%) }}
        pipeline bad = linear {{ example.misbehave(how={how}) }}
        pipeline child = bad {{ prune.magnitude(amount=50%) }}
        """
    )
    rows = compiled.rows(results)
    assert rows["good"].status == "ok"
    assert rows["good"].artifact
    assert rows["bad"].status == "failed"
    assert rows["bad"].failure.kind == kind
    assert said in rows["bad"].failure.message
    assert rows["bad"].failure.where.endswith("r.mopt:8:33")
    assert rows["child"].status == "not built"
    assert results.exit_status == (70 if kind == "bug" else 3)
    assert said in compiled.log


def test_a_bug_leaves_its_traceback_in_a_file(compiled):
    failure = compiled.rows(compiled("pipeline bad = linear { example.misbehave() }"))["bad"].failure
    with open(failure.details, encoding="utf-8") as file:
        assert "RuntimeError: something nobody expected" in file.read()
    assert "report" in failure.help


def test_a_broken_promise_names_the_weight(compiled):
    rows = compiled.rows(
        compiled(
            """
            pipeline a = linear { prune.magnitude(amount=50%) example.dense() }
            pipeline b = linear { prune.magnitude(amount=50%) example.negate() }
            """
        )
    )
    assert rows["a"].failure.kind == "contract"
    assert "`w` was promised 50.00% zeros" in rows["a"].failure.message
    assert rows["b"].status == "ok"


def test_a_failed_step_is_tried_again(compiled, tmp_path):
    body = 'model m = onnx("late.onnx")\npipeline a = m { }\npipeline b = linear { }'
    (tmp_path / "late.onnx").write_bytes(b"")
    results = compiled(body)
    assert results.exit_status == 3
    assert compiled.rows(results)["b"].status == "ok"
    good = compiled.folder / "out" / compiled.rows(results)["b"].artifact
    (tmp_path / "late.onnx").write_bytes(good.read_bytes())
    assert compiled(body).exit_status == 0


# -- requirements


def test_a_failed_requirement_ends_its_pipeline_alone(compiled):
    results = compiled(
        """
        pipeline a = linear {
            prune.magnitude(amount=50%)
            require nonzero <= 10
            example.misbehave()
        }
        pipeline child = a { example.negate() }
        pipeline b = linear { prune.magnitude(amount=90%)  require nonzero <= 20 }
        """
    )
    rows = compiled.rows(results)
    assert rows["a"].status == "ended"
    assert [r.held for r in rows["a"].requirements] == [False]
    assert rows["a"].requirements[0].left == 96
    assert rows["a"].nonzero == 96  # the figures are of that point
    assert rows["child"].status == "not built"
    assert rows["b"].status == "ok"
    assert rows["b"].requirements[0].held is True
    assert results.exit_status == 1


def test_requirements_compare_with_other_pipelines(compiled):
    rows = compiled.rows(
        compiled(
            """
            pipeline original = linear { }
            pipeline a = original {
                example.negate()
                require size <= 110% * original.size
                require largest <= original.largest + 1000
                require params == original.params
                require macs >= 50% * original.macs
                require compressed > 0B
            }
            """
        )
    )
    assert [r.held for r in rows["a"].requirements] == [True] * 5


def test_latency_can_be_required(compiled):
    rows = compiled.rows(compiled("pipeline a = linear { require latency <= 10s require latency >= 1000s }"))
    assert [r.held for r in rows["a"].requirements] == [True, False]


def test_a_requirement_on_a_target_is_asked_of_that_one(compiled):
    """It is measured on the target that it names, whichever comes first, and not asked where the build has none."""
    body = """
        target far = example()
        target near = ort()
        pipeline a = linear {
            require size >= 768B on near
            require size < 768B on far
        }
    """
    for targets, held in (((), [True, True]), (("near",), [True, None]), (("far",), [None, True])):
        results = compiled(body, targets=targets)
        assert results.exit_status == 0
        for row in results.rows:
            assert [r.held for r in row.requirements] == held
            assert [r.asked for r in row.requirements] == [value is not None for value in held]
    (row,) = results.rows
    assert row.requirements[0].text == "size >= 768B on near"
    assert row.requirements[0].reason == "this build is not for `near`"
    assert ("require", ("– ✓",)) in [(column.head, column.cells) for column in columns(results)]
    assert [note for note in footnotes(results) if "near" in note] == ["– not asked: this build is not for `near`"]


def test_a_requirement_on_a_target_that_fails_ends_the_pipeline(compiled):
    results = compiled("target near = ort()  pipeline a = linear { require size <= 1B on near example.negate() }")
    assert compiled.rows(results)["a"].status == "ended"
    assert results.exit_status == 1


def test_a_row_tells_what_preparing_for_its_target_warned_of(compiled, monkeypatch):
    """Also where nothing runs again; the other target's row says nothing of it."""
    import mopt_example

    monkeypatch.setattr(mopt_example.Folder, "prepare", lambda self: (("quantize.dynamic", {}),))
    body = "target far = example()  target near = ort()  pipeline a = linear { }"
    for _ in range(2):
        far, near = compiled(body).rows
        assert "nothing was quantised" in far.notes
        assert near.notes == ()


# -- what is asked of the compile itself


def test_unknown_target_names_the_nearest(compiled):
    with pytest.raises(TargetError, match="did you mean `ort`"):
        compiled("pipeline a = linear { }", targets=("orts",))


def test_only_chosen_pipelines_are_built(compiled):
    results = compiled("pipeline a = linear { } pipeline b = linear { }", only=("b*",))
    assert [row.pipeline for row in results.rows] == ["b"]
    with pytest.raises(RecipeError, match="no pipeline matches"):
        compiled("pipeline a = linear { }", only=("z*",))


def test_a_wrong_recipe_runs_nothing(compiled):
    with pytest.raises(RecipeError) as caught:
        compiled("pipeline a = lineaar { }")
    assert not caught.value.result.ok
    assert not (compiled.folder / "store").exists()


def test_profiled_rows_are_relative_to_the_first_pipeline(compiled):
    rows = compiled.rows(compiled("pipeline a = linear { } pipeline b = a { example.negate() }", profile="auto"))
    assert rows["a"].latency[1].ratio is None
    assert rows["b"].latency[1].ratio > 0
    assert rows["b"].baseline == "a"
    again = compiled.rows(compiled("pipeline a = linear { } pipeline b = a { example.negate() }", profile="auto"))
    assert again["b"].latency == rows["b"].latency


def test_names_in_any_script_and_with_odd_characters(compiled, tmp_path):
    rows = compiled.rows(compiled("pipeline größe_模型 = linear { prune.magnitude(amount=any(25%, 50%)) }"))
    for row in rows.values():
        assert (compiled.folder / "out" / row.artifact).is_file()
