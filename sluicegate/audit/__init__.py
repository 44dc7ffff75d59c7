"""The audit log: entries without content in a Merkle tree, with signed and published checkpoints."""
