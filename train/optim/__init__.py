"""How parameters move: optimizers, and the learning rate of each step.

Imports no other room.
"""
