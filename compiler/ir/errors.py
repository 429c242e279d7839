"""What can go wrong with a model on its way in or out. Messages say what, where, and what to do."""

from __future__ import annotations


class IRError(Exception):
    """A module can't be read, written, or changed as asked."""


class LoadError(IRError):
    """A file or a proto is not a model that can be worked on."""


class SaveError(IRError):
    """A module can't be written. Nothing half-written is left behind."""
