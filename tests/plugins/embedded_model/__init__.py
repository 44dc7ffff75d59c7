"""Tests of the embedded models, with the real weights."""
