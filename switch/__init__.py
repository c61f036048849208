"""The switch: the service on the Docker host that owns which engine is live.

Nothing but the standard library: these files are put into a plain Python image
and run as `python3 -m switch`.
"""
