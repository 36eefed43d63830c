"""What every wing stands on, and knows none: files, configuration, the console, names and sources."""
