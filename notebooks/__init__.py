"""Lessons in Python with pictures: each .py is the source, the .ipynb beside it the same, executed."""
