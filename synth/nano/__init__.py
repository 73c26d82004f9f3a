"""Nano: a small Bark of four stages, trained from nothing, and the recipe that trains it."""
