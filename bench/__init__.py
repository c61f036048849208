"""Measurements that print a table and can be run again: `python -m bench.NAME --help`."""
