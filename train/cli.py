"""The command line: what a command of any room says and exits with, and what becomes of errors."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence

from fxformer.lookup import nearest
from train.commands.words import app
from train.errors import UserError, refusal, user_input
from train.run.signals import INTERRUPTED

# isort: off
from train.commands import runs, sweeps, reports, models  # each adds its commands, in this order
# isort: on

__all__ = ["app", "main", "models", "reports", "runs", "sweeps"]


def main() -> None:
    """The command line: what a user can put right is one sentence and exit code 2, a bug keeps its traceback."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"  # and not which line of ours gave it
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax tells of a failed write by itself, at great length
    try:
        check_command(sys.argv[1:])
        code = app.cli(prog="python -m train", description="Train, compare and sample small transformers.")
    except BrokenPipeError:  # who reads has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (UserError, OSError) as error:
        print(f"error: {refusal(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        code = error.exit_code if isinstance(error, UserError) else UserError.exit_code
    except KeyboardInterrupt:  # where whoever calls this has not said what a signal does, as __main__ has
        print("\ninterrupted; nothing that was saved is lost", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)


def check_command(words: Sequence[str]) -> None:
    """Raise UserError where the command line begins with a command that there is not."""
    if words and not words[0].startswith("-"):
        with user_input():
            nearest(dict.fromkeys(app.names), words[0], "command")
