"""The central fleet manager. Importing it loads nothing."""
