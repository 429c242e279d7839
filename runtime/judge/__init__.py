"""Metrics, losses, and running a model over a split to compute them."""
