"""What may be claimed: how runs ended, and what tells them apart.

Pure functions of arrays and records: imports no other room.
"""
