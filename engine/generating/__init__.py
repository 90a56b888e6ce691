"""The command ``ldm-engine generate``: pictures of prompts, or again of their own recipes."""
