"""Where weights come from: folders, the hub, and the files inside."""
