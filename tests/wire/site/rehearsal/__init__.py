"""Plugins that play a test's script, as a third party would install them: an entry point each, nothing in ``plugins/``."""
