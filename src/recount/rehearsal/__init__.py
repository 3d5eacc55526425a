"""Trying systems at full size before anything is fetched, and counting what they cost."""
