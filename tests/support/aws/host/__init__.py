"""A host for the emulated instance: see `machines.py`."""
