"""`make scan`: known vulnerabilities of the images, by whichever scanner is installed.

    python deploy/scan.py [IMAGE ...]

Without a name it takes every image that docker-compose.yml runs. The exit status is 1 for findings
alone; what could not be scanned is said, and is no finding.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

COMPOSE_FILE = Path(__file__).resolve().parent.parent / "docker-compose.yml"
FINDINGS = 2  # the exit status that both scanners have for findings, and for nothing else
SCANNERS = {
    "trivy": [
        "image",
        "--quiet",
        "--ignore-unfixed",
        "--severity=HIGH,CRITICAL",
        f"--exit-code={FINDINGS}",
    ],
    "grype": ["--quiet", "--only-fixed", "--fail-on=high"],
}


def images() -> list[str]:
    """What docker-compose.yml runs, each once."""
    found = re.findall(r"^\s+image: (\S+)", COMPOSE_FILE.read_text(), flags=re.MULTILINE)
    return list(dict.fromkeys(found))


def scan(names: Sequence[str]) -> bool:
    """Scan images and say what came of each. returns: whether there are findings"""
    scanner = next((name for name in SCANNERS if shutil.which(name)), None)
    if scanner is None:
        print("not scanned: neither trivy nor grype is installed")
        return False
    findings = False
    for name in names:
        done = subprocess.run([scanner, *SCANNERS[scanner], name], capture_output=True, text=True)
        if done.returncode == FINDINGS:
            findings = True
            print(f"{name}: findings\n{done.stdout}")
        elif done.returncode:
            print(f"{name}: not scanned: {done.stderr.strip() or done.stdout.strip()}")
        else:
            print(f"{name}: no known vulnerability that is high and has a fix")
    return findings


if __name__ == "__main__":
    sys.exit(scan(sys.argv[1:] or images()))
