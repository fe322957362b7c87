"""The book's site of the scraper's own tests, here under attack."""

from pipeline.conftest import archive, book, book_site  # noqa: F401
