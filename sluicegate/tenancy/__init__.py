"""Whose it is: accounts as stored documents, their deployments, policies and limits."""
