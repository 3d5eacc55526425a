"""The base of all errors that are meant for people, and the system's errors in their words."""

import errno
from pathlib import Path

MEND = {
    errno.ENOSPC: "make room (`df -h` shows which disk is full), then run the same command again",
    errno.EDQUOT: "your quota is used up: make room, then run the same command again",
    errno.EFBIG: "the file system or `ulimit -f` allows no file of this size",
    errno.ENAMETOOLONG: "shorten the name; most file systems allow 255 bytes for each part of a path",
    errno.EACCES: "`ls -ld` shows who may; ask its owner, or name another place",
    errno.EPERM: "`ls -ld` shows who may; ask its owner, or name another place",
    errno.EROFS: "this disk can only be read; name another place",
    errno.EISDIR: "a folder is where a file should be; name another place, or move it away",
    errno.ENOTDIR: "a file is where a folder should be; name another place, or move it away",
    errno.ELOOP: "links lead in a circle; make one of them a folder",
    errno.EEXIST: "move away what is there, or name another place",
    errno.EMFILE: "`ulimit -n` sets how many files may be open at once",
    errno.EIO: "the disk reports a fault; try again, and look after it if that does not help",
    errno.ESTALE: "a network drive lost the file; run the same command again",
}


NOT_BITWISE = "does not have a deterministic implementation"  # PyTorch's words


class UserError(Exception):
    """Something is wrong that the user can mend; commands print the message as it is, without a traceback."""


def working_folder() -> Path:
    """Return the folder that a command runs in, or say what is wrong with it."""
    try:
        folder = Path.cwd()
    except OSError as error:
        raise UserError(
            f"the working directory is gone, or closed to you ({error.strerror}): `cd` to the project's folder"
        ) from None
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        what = "its name is not UTF-8, which files of results are: rename the folder, or set LANG=C.UTF-8 if it is"
        raise UserError(f"{folder}: {what}") from None
    return folder


def expanded(path: str) -> Path:
    """Return a path whose ``~`` is the user's home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: this home is not known: set HOME, or write the whole path") from None


def in_words(error: BaseException) -> str | None:
    """Return what to say of an error that the user can mend, ours or the system's (one line); None for others."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, RecursionError):
        return "a file that was read is nested too deeply (JSON or YAML); `recount --verbose` shows where it was read"
    if isinstance(error, RuntimeError) and NOT_BITWISE in str(error):
        what = str(error).partition(NOT_BITWISE)[0]
        return f"determinism: bitwise cannot be kept: {what}{NOT_BITWISE} on a card (PyTorch); set determinism: seeded"
    if not isinstance(error, OSError) or error.errno not in MEND:
        return None
    path = error.filename2 or error.filename or _place(error)
    where = "" if path is None else f"{path}: "
    return f"{where}{error.strerror or error}: {MEND[error.errno]}"


def printable(text: str) -> str:
    """Return text without characters that are commands to a terminal, which other people's files may hold."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def _place(error: OSError) -> Path | None:
    """Return the path that the innermost function knows, for an error of writing, which names none itself."""
    found, step = None, error.__traceback__
    while step is not None:
        found = next((value for value in step.tb_frame.f_locals.values() if isinstance(value, Path)), found)
        step = step.tb_next
    return found
