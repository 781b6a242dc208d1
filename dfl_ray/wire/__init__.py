"""Messages as bytes on air."""
