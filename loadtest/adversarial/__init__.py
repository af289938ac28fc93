"""Adversarial examples against the detectors that see the model's answer: crafted with torch in an
environment of its own, measured without it."""
