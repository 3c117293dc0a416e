"""From a trained model to a checked package for one device profile. Importing it loads nothing."""
