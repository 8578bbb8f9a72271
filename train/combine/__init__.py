"""Every pair of choices, met in a model that is tried, or refused by a sentence.

Imports config, and what config imports.
"""
