"""Measure the content classifier on any labelled file."""
