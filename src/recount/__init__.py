"""recount: a reproducibility benchmark harness for visual counting."""
