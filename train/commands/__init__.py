"""The commands: arguments in words, and what is printed; `python -m train --help` lists them.

May import every other room; a command imports what it runs when it is called, so that help is quick.
"""
