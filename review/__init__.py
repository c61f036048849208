"""Reviews of a stack's changes: pure functions of what the Pulumi engine says, and the policies."""
