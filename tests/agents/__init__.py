"""Clients that people have, each as its package is: a program that does what it is told, a line at a time."""
