"""How results are shown: what a record of them is; pages, figures, tables.

Imports verdict, files and errors.
"""
