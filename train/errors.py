"""What a user can put right, told apart from what is wrong in the program.

Only where input comes in is a ValueError taken for a mistake of the user; one from inside a step is a bug, and keeps
its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something asked for cannot be done; the message is one sentence that says what, and the remedy."""


@contextmanager
def user_input() -> Iterator[None]:
    """Within it input is checked: a ValueError, of the library say, becomes a UserError with the same words."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error
