"""The paper's measurements on the built-in world: a file for each table, and what they share."""
