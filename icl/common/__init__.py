"""The ground that every wing stands on: files, configuration, the console, names of choices and of sources."""
