"""What our daemons have in common: settings, logs, memory, descriptors, the build they are of."""
