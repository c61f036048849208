"""What a stack's real traffic is, and which engine the rules of thumb advise for it: no network, no I/O."""
