"""One model: its loop, checkpoints, log, progress and signals, and what it says afterwards.

Imports every room but sweep and report.
"""
