"""The command line, one file for each group of commands; ``app`` mounts them and ``options`` holds what they share.

A command imports what it works with when it runs, so that help and wrong usage cost nothing.
"""
