"""What a user can put right, told apart from what is wrong in the program.

Only where input comes in is a ValueError taken for a mistake of the user; one from inside a step is a bug, and keeps
its traceback.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # what only a write meets


class UserError(ValueError):
    """Something asked for cannot be done; the message is one sentence that says what, and the remedy."""

    exit_code = 2


class NoComparisonError(UserError):
    """Of two arms none can be judged by the other; 0 to 3 are the answers of `judge`."""

    exit_code = 4


class WriteError(OSError):
    """The system refused to write a file, or to make a folder."""


@contextmanager
def user_input() -> Iterator[None]:
    """Within it input is checked: a ValueError, of the library say, becomes a UserError with the same words."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within it a file is written: what the system refuses is told of `path`, whatever else it takes to write it."""
    try:
        yield
    except OSError as error:
        raise WriteError(error.errno, error.strerror or str(error), str(path)) from error


def refusal(error: OSError) -> str:
    """What the system refused, in words, like "cannot write runs/norms: permission denied"."""
    why = error.strerror or str(error)
    if not isinstance(error.filename, str | bytes):
        return why
    file = os.fsdecode(error.filename)
    verb = "write" if isinstance(error, WriteError) or error.errno in FULL or _is_closed(error, file) else "read"
    return f"cannot {verb} {file}: {why[:1].lower()}{why[1:]}"


def _is_closed(error: OSError, file: str) -> bool:
    """Was it writing that was not permitted? It was where the file, or the place where it is not, may be read."""
    known = next(place for place in (Path(file).absolute(), *Path(file).absolute().parents) if os.path.exists(place))
    rights = os.R_OK | os.X_OK if known.is_dir() else os.R_OK
    return isinstance(error, PermissionError) and os.access(known, rights)
