"""How results are shown: pages, figures, tables.

Imports verdict and errors.
"""
