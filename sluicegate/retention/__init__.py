"""What goes, and the proof of it: deletion on request, the daily purge, and signed receipts."""
