"""Wire <-> types: pure functions that read requests and write answers; no plugin, no storage, no account.

``body`` and ``versions`` read, ``chat``, ``completions``, ``embeddings`` and ``models`` write, ``errors`` writes what went
wrong and ``sse`` sends a stream. Everything they return is JSON or events as bytes, ready to send.
"""
