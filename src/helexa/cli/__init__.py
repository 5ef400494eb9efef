"""The `helexa` command: one file per subcommand, each parses, calls and prints."""
