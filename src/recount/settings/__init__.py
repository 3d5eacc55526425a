"""Typed settings: the only readers of the YAML files."""
