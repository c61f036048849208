"""Panels and alerts of a stack with `monitor: true`, defined once as data, and rendered for each reader.

Pure: no pulumi import and no I/O.
"""
