"""Builds the Pulumi engine, its plugins, the images and a tiny model from package registries alone.

For networks where neither vendors' downloads nor image registries can be reached. Runs on Debian
and needs Python 3.11, Go and a C compiler.
"""
