"""Layers and losses that at least two systems share."""
