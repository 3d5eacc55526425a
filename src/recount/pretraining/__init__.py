"""Tiny base models that recount trains itself, so that its default run needs no download."""
