"""The commands of ``python -m sluicegate`` that are more than a few lines."""
