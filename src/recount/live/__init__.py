"""``recount status --serve``: what is running, as a page that keeps itself up to date."""
