"""Straight-line training scripts, each with functions that return its typed config."""
