"""Many models: the cells of a grid, and populations that train in one program.

May import every other room.
"""
