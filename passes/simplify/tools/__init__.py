"""Opaque simplifiers as subprocesses: what they return is believed only once it is verified."""
