"""Which bytes: texts, cut into rows and windows, and synthetic tasks.

Imports errors only.
"""
