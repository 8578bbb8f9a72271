"""Which tokens: texts, cut into rows and windows, their tokenizers, and synthetic tasks.

Imports files and errors.
"""
