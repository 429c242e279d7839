"""What a diagnostic looks like, to people and to machines."""

from __future__ import annotations

import json
import re

from mopt.grammar import Diagnostic, Label, Source, render

TEXT = 'one = "a"\n\ttwo = 2\nthree = "日本", 4\n\n\nsix\n'
SOURCE = Source("a.mopt", TEXT)


def at(word, source=SOURCE):
    start = source.text.index(word)
    return source.span(start, start + len(word))


def diagnostic(*labels, **more):
    primary, *secondary = labels
    return Diagnostic("E0101", more.pop("severity", "error"), "what", primary, tuple(secondary), **more)


def test_the_shape():
    one = diagnostic(Label(at("two"), "here"), notes=("first", "second\nline"), help="do this")
    assert render([one]) == (
        "error[E0101]: what\n"
        " --> a.mopt:2:2\n"
        "  |\n"
        "2 |     two = 2\n"
        "  |     ^^^ here\n"
        "  |\n"
        "  = note: first\n"
        "  = note: second\n"
        "          line\n"
        "  = help: do this\n"
    )


def test_wide_characters_keep_the_marks_in_place():
    lines = render([diagnostic(Label(at("4"), "here"))]).splitlines()
    assert lines[3] == '3 | three = "日本", 4'
    assert lines[4] == "  |                 ^ here"  # each of the two takes two cells


def test_several_places_in_two_files():
    other = Source("b.mopt", "first\n")
    one = diagnostic(Label(at("six"), "here"), Label(at("one"), "there"), Label(at("first", other), "and there"))
    assert render([one]).splitlines() == [
        "error[E0101]: what",
        " --> a.mopt:6:1",
        "  |",
        '1 | one = "a"',
        "  | --- there",
        "...",
        "6 | six",
        "  | ^^^ here",
        "  |",
        " ::: b.mopt:1:1",
        "  |",
        "1 | first",
        "  | ----- and there",
    ]


def test_gutter_of_long_files():
    source = Source("long.mopt", "x\n" * 99 + "bad\n")
    lines = render([diagnostic(Label(at("bad", source)))]).splitlines()
    assert lines[1:5] == ["   --> long.mopt:100:1", "    |", "100 | bad", "    | ^^^"]


def test_long_lines_are_cut_around_the_place():
    source = Source("wide.mopt", "a" * 500 + " here " + "b" * 500)
    lines = render([diagnostic(Label(at("here", source), "label"))], width=80).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[3][lines[4].index("^") :].startswith("here")


def test_nothing_steers_the_terminal():
    source = Source("\x1b[2Jevil.mopt", "x = \x1b[31m bad\u202e\n")
    text = render([Diagnostic("E0101", "error", "\x1b]0;title\x07", Label(at("bad", source), "\x1b[0m"))])
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text)


def test_colour_adds_nothing_but_colour():
    one = diagnostic(Label(at("two"), "here"), Label(at("one")), severity="warning", help="do this")
    coloured = render([one, one], color=True)
    assert "\x1b[1;33m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render([one, one])


def test_without_a_place():
    one = Diagnostic("E0001", "error", "no recipe", path="x.mopt", help="look")
    assert render([one]) == "error[E0001]: no recipe\n --> x.mopt\n  |\n  = help: look\n"
    assert render([]) == ""


def test_at_the_end_of_the_file():
    source = Source("e.mopt", "abc\n")
    assert render([diagnostic(Label(source.span(4, 4), "end"))]).splitlines()[3:] == ["2 |", "  | ^ end"]


def test_json():
    one = diagnostic(Label(at("two"), "here"), Label(at("one")), notes=("n",), help="h")
    data = json.loads(json.dumps(one.to_json()))
    assert data == {
        "code": "E0101",
        "severity": "error",
        "message": "what",
        "path": "a.mopt",
        "primary": {"path": "a.mopt", "line": 2, "column": 2, "end_line": 2, "end_column": 5, "label": "here"},
        "secondary": [{"path": "a.mopt", "line": 1, "column": 1, "end_line": 1, "end_column": 4, "label": ""}],
        "notes": ["n"],
        "help": "h",
    }
