"""Coding agents, each as its package is, by their guide and where nothing but the endpoint can be reached."""
