"""Tests of parts that run: a server of the project is asked, or a program of it is started. No Docker."""
