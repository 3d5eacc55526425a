"""Sharing results: exports as RO-Crates, and two reproductions side by side."""
