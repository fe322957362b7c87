"""Exit 0 where a URL answers 200: a health check for images that carry no curl."""

import sys
import urllib.error
import urllib.request

TIMEOUT_S = 5


def main() -> None:
    """The URL is the first argument."""
    try:
        # an answer of 400 or more raises
        urllib.request.urlopen(sys.argv[1], timeout=TIMEOUT_S).close()
    except OSError as error:  # URLError and HTTPError are ones
        sys.exit(f"{sys.argv[1]}: {error}")


if __name__ == "__main__":
    main()
