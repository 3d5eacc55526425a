"""Layers and losses that at least two systems share."""

from recount.nn import libraries as libraries  # before any of these is imported
