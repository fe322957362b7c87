"""From a book's contents page to its chapters on disk: polite on the web, quiet when nothing
changed."""
