"""A core in a child process: what is said over the socket, the child, and the host that owns it."""
