"""Detectors that look at the input together with the model's answer; numpy only."""
