"""The runtimes on GPUs: all that has not yet run on hardware."""
