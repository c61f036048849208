"""The AWS resources of a Docker host, one component a file; `gpu_host.py` composes them."""
