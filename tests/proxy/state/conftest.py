"""Puts the conformance suites of this folder where its subfolders' tests find them."""
