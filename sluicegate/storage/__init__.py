"""What is kept, encrypted: the vault of records, large files, uploaded files, documents, and the keys to all of them."""
