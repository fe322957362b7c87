"""Print what some extras of pyproject.toml need, one requirement a line: the image's layer that
changes rarely."""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    """The project's own dependencies, then those of each extra named on the command line."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][name] for name in sys.argv[1:]]
    print("\n".join([*project["dependencies"], *(line for extra in extras for line in extra)]))


if __name__ == "__main__":
    main()
