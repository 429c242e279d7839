"""Where plug-ins are found: the built-in table and the entry points of installed packages, resolved lazily."""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import TypeVar

from mopt.plugin.builtin import BUILTIN

GROUPS = ("passes", "sources", "data", "losses", "metrics", "targets")
"""The kinds of plug-in. A package adds to one with the entry-point group `mopt.<kind>`."""

_Class = TypeVar("_Class", bound=type)


class PluginError(Exception):
    """A plug-in can't be used: unknown, clashing, or broken on import."""


def register(name: str) -> Callable[[_Class], _Class]:
    """Give a plug-in class the name that recipes use. Registration itself is the table or the entry point."""

    def decorate(cls: _Class) -> _Class:
        cls.name = name  # type: ignore[attr-defined]
        return cls

    return decorate


class Registry:
    """Plug-in classes by kind and name. Nothing is imported before it is asked for.

    Args:
        tables: for each kind, name → `module:attribute`.
    """

    def __init__(self, tables: Mapping[str, Mapping[str, str]]) -> None:
        self._tables = {group: dict(tables.get(group, {})) for group in GROUPS}
        self._loaded: dict[tuple[str, str], type] = {}

    def names(self, group: str) -> tuple[str, ...]:
        """Return the names known in a group, sorted."""
        return tuple(sorted(self._tables[group]))

    def has(self, group: str, name: str) -> bool:
        """Say whether a group knows a name, importing nothing."""
        return name in self._tables[group]

    def get(self, group: str, name: str) -> type:
        """Import and return a plug-in class.

        Raises:
            PluginError: no such plug-in, or its module can't be imported.
        """
        key = (group, name)
        if key in self._loaded:
            return self._loaded[key]
        if name not in self._tables[group]:
            close = difflib.get_close_matches(name, self._tables[group], n=1)
            hint = f"; did you mean `{close[0]}`?" if close else ""
            raise PluginError(f"no {group} plug-in is called `{name}`{hint}")
        target = self._tables[group][name]
        module_name, _, attribute = target.partition(":")
        try:
            loaded = getattr(importlib.import_module(module_name), attribute)
        except Exception as error:
            told = f"{type(error).__name__}: {error}" if not isinstance(error, ImportError) else str(error)
            raise PluginError(f"plug-in `{name}` ({target}) can't be loaded: {told}") from error
        if not isinstance(loaded, type):
            raise PluginError(f"plug-in `{name}` ({target}) is not a class")
        own = getattr(loaded, "name", name)
        if own != name:
            raise PluginError(f"plug-in `{name}` ({target}) calls itself `{own}`")
        self._loaded[key] = loaded
        return loaded

    def origin(self, group: str, name: str) -> str:
        """Return `module:attribute` of a plug-in."""
        return self._tables[group][name]

    def extended(self, group: str, entries: Mapping[str, str]) -> Registry:
        """Return a registry with more plug-ins.

        Raises:
            PluginError: a name is taken; both places are named.
        """
        merged = {kind: dict(table) for kind, table in self._tables.items()}
        for name, target in entries.items():
            taken = merged[group].get(name)
            if taken is not None and taken != target:
                raise PluginError(
                    f"two {group} plug-ins are called `{name}`: {taken} and {target}; uninstall one of them"
                )
            merged[group][name] = target
        return Registry(merged)


@functools.cache
def default_registry() -> Registry:
    """Return the built-in plug-ins and those of installed packages.

    Raises:
        PluginError: two packages use one name.
    """
    from importlib.metadata import entry_points

    registry = Registry(BUILTIN)
    found = entry_points()
    for group in GROUPS:
        entries: dict[str, str] = {}
        for entry in found.select(group=f"mopt.{group}"):
            if entries.get(entry.name, entry.value) != entry.value:
                raise PluginError(
                    f"two {group} plug-ins are called `{entry.name}`: "
                    f"{entries[entry.name]} and {entry.value}; uninstall one of them"
                )
            entries[entry.name] = entry.value
        registry = registry.extended(group, entries)
    return registry
