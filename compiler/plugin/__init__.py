"""How passes, sources, data, losses, metrics and targets declare themselves and their options."""

from mopt.plugin.options import Option, canonical, option, schema
from mopt.plugin.registry import GROUPS, PluginError, Registry, default_registry, register

__all__ = [
    "GROUPS",
    "Option",
    "PluginError",
    "Registry",
    "canonical",
    "default_registry",
    "option",
    "register",
    "schema",
]
