"""A registry of passes, sources … that do nothing: the checker's tests do not hang on what happens to be built in."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from mopt.plugin import Registry

NAME = "mopt_check_fakes"


def _load():
    spec = importlib.util.spec_from_file_location(NAME, Path(__file__).parent / "fakes.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fakes() -> Registry:
    module = sys.modules.get(NAME) or _load()
    tables = {group: {name: f"{NAME}:{cls}" for name, cls in table.items()} for group, table in module.TABLES.items()}
    tables["passes"]["broken"] = "mopt_check_fakes_not_there:Broken"
    return Registry(tables)
