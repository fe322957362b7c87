"""HTML to what a chapter says: its blocks, the contents page, character sets."""
