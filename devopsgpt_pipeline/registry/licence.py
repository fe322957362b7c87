"""What the weights may be used for: the licences of what they were made of."""

from typing import Any

LICENCE_FILE = "LICENSE"
LICENCES = {
    "MIT": "mit",
    "CC BY 4.0": "cc-by-4.0",
    "CC BY-SA 4.0": "cc-by-sa-4.0",
    "CC BY-NC-ND 4.0": "cc-by-nc-nd-4.0",
}


def licence_text(lineage: dict[str, Any]) -> str:
    """The text of LICENSE beside the weights. lineage: as `lineage.json` has it"""
    weights, books = lineage["initial_weights"], lineage["books"]
    lines = ["The weights in this folder were made from what is listed here.", ""]
    if weights["name"] == "scratch":
        lines.append("Initial weights: random.")
    else:
        place = weights.get("repository", weights["name"])
        licence = "MIT, by OpenAI" if "repository" in weights else "see its model card"
        lines.append(f"Initial weights: {place} ({licence}).")
    lines.append("Learned from:" if books else f"Learned from: {lineage['data']['dataset']}.")
    for book in books:
        lines += [
            f"- {book['title']}, {book['contents_url']}",
            f"  {book['licence']}. {book['attribution']}",
        ]
    return "\n".join(lines) + terms_of_weights(books) + "\n"


def front_matter_licence(books: list[dict[str, str]]) -> dict[str, str]:
    """The data's licence under the hub's name for it, where all of the data has the same."""
    found = sorted({book["licence"] for book in books})
    if len(found) == 1 and found[0] in LICENCES:
        return {"license": LICENCES[found[0]]}
    return {"license": "other", "license_name": " and ".join(found) or "that of the data"}


def terms_of_weights(books: list[dict[str, str]]) -> str:
    """What a licence that forbids changed copies means for the weights."""
    if not any("ND" in book["licence"].replace("-", " ").split() for book in books):
        return ""
    return (
        "\n\nThe licence lets you read and pass the books on as they are, name the source, and not "
        "sell them. Whether "
        "weights that learned them may be passed on is not settled: keep them, and what they say, "
        "for your own "
        "non-commercial use."
    )
