"""One file a format, writer and reader side by side."""
