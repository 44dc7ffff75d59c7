"""Fine-tune the chat model: a low-rank adapter, trained in NumPy in a process of its own. ``process`` is where it begins."""
