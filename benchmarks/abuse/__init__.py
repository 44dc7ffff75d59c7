"""Abuse monitoring measured: what signals cost a request, and what the score finds in simulated populations."""
