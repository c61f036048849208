"""Measurements on a machine with an NVIDIA GPU and no network: `prepare` here, `run` there.

Run, here: `python -m bench.gpu.prepare`. Copy the checkout with `.changeover/gpu` to the machine with the
GPU, and run there: `python3 bench/gpu/run.py`.
"""
