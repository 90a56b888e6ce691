"""Checks that refuse, to be imported by their names."""

from __future__ import annotations


def refuse(prompt, picture):
    """What mentions a dog, and the pictures of what mentions a cat."""
    if picture is None:
        return "no dogs" if "dog" in prompt else None
    return "a cat is seen" if "cat" in prompt else None


def fail(prompt, picture):
    """Nothing: it is broken."""
    raise KeyError(prompt)


def answer(prompt, picture):
    """Neither a reason nor None."""
    return True


NO_FUNCTION = 5
