"""Processes, signals and files: nothing of the domain."""
