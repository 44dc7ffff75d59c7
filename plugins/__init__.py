"""The plugins that come with Sluicegate; each uses only the hooks that any plugin can use."""
