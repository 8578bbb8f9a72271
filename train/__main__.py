"""python -m train run | ablate | watch | report | sample | probe | combine"""

from train.run.signals import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # also while the rest is imported, which takes seconds

from train.cli import app, main

__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
