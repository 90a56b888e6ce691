"""What the computer offers: processors, GPUs, memory, caches, and places for files."""
