"""Where people and programs meet the package: the command line."""
