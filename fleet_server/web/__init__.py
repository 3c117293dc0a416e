"""Pages for people: whole HTML files without anything fetched from elsewhere."""
