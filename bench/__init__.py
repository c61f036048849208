"""Measurements, each a program that prints a Markdown table and can be run again.

Run: `python -m bench.NAME`, after `make venv-dev` and `source .venv/bin/activate`; `--help` says what it
does. A stack that is deployed for a measurement has a name of its own (`bench-…`), offline images, which
`make up` builds, and the model `tiny`; it is removed in the end. Nothing else should run on the machine
meanwhile.
"""
