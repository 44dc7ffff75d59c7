"""Classify text for hate, sexual content, violence, self-harm and prompt attacks, offline."""
