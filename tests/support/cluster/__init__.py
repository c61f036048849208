"""A cluster of several machines for the tests: Kubernetes as it is, each machine in namespaces of its own.

It changes nothing of this machine, and ends with the process that has made it.
"""
