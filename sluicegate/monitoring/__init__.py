"""Abuse monitoring: from signals without content to scores, cases and decisions."""
