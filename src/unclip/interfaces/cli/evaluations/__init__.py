"""One evaluation a file: its flags, `run`, and the table that it prints."""
