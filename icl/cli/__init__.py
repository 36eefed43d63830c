"""The command line, one file a group of commands. What a command works with it imports when it runs."""
