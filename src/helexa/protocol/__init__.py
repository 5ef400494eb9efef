"""Wire formats: what is said over HTTP, as plain data, with no socket, no clock and no torch."""
