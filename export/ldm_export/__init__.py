"""From a published checkpoint to a bundle of verified programs; needs the `export` extra."""
