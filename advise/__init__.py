"""Which engine the rules of thumb advise for a stack's real traffic, and what another card would give.

No network, no I/O.
"""
