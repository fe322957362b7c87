"""From archived pages to clean text: extraction, normalization, held-out chapters."""
