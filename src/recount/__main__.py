"""``python -m recount``: the ``recount`` command under the Python that runs it (as the workflow's rules call it)."""

from recount.cli import app

app(prog_name="recount")
