"""Measurements on a machine with an NVIDIA GPU and no network: `prepare` here, `run` there."""
