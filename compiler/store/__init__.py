"""The content-addressed store: snapshots of graphs, records of finished steps, emitted artifacts."""

from mopt.store.files import StoreError, digest_of, write_atomically
from mopt.store.store import Store, default_root

__all__ = ["Store", "StoreError", "default_root", "digest_of", "write_atomically"]
