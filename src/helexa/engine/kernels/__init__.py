"""One operator per file, each with its plain torch definition."""
