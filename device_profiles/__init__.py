"""What a device is and what it can run. Importing it loads nothing."""
