"""What the commands of `python -m fxformer` say and do, where it takes more than a line."""
