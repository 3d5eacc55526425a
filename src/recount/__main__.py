"""``python -m recount``: the ``recount`` command under the Python that runs it (as the workflow's rules call it)."""

from recount.cli import app

if __name__ == "__main__":  # not in the processes that training on several GPUs starts
    app(prog_name="recount")
