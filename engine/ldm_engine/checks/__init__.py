"""Whether a bundle agrees with the model it was exported from."""
