"""Every regular expression of a package, and text that is made to keep it busy."""

import ast
import importlib
import re
from pathlib import Path
from re import _constants as kinds
from re import _parser as parser

FUNCTIONS = {
    *("compile", "search", "match", "fullmatch", "split", "findall", "finditer", "sub", "subn"),
}
MAX_SAMPLES = 60


def patterns(folder: Path, package: str) -> dict[str, tuple[re.Pattern, list[str]]]:
    """'file:line' -> pattern and the methods that it is used by, for each call of re in a package.
    A pattern is evaluated as its module would, so one that is put together is found, too."""
    trees = {path: ast.parse(path.read_text()) for path in (folder / package).rglob("*.py")}
    used = methods_of_names(trees.values())
    found = {}
    for path, tree in sorted(trees.items()):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in ("re", "regex"):
                raise ValueError(f"{path}: write `import re`, so that its patterns are found")
            if is_named_pattern(node):
                methods = used.get(getattr(node.targets[0], "id", ""), set())
                node.value.methods = sorted(methods & FUNCTIONS) or sorted(FUNCTIONS - {"compile"})
            if is_call_of_re(node):
                place = path.relative_to(folder)
                module = importlib.import_module(".".join(place.with_suffix("").parts))
                methods = getattr(node, "methods", [node.func.attr])
                found[f"{place}:{node.lineno}"] = evaluated(node, vars(module)), methods
    return found


def is_named_pattern(node: ast.AST) -> bool:
    """Whether it is NAME = re.compile(...)."""
    return (
        isinstance(node, ast.Assign)
        and is_call_of_re(node.value)
        and node.value.func.attr == "compile"
    )


def methods_of_names(trees) -> dict[str, set[str]]:
    """NAME -> x for each NAME.x in the sources."""
    used: dict[str, set[str]] = {}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.setdefault(node.value.id, set()).add(node.attr)
    return used


def is_call_of_re(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "re"
        and node.func.attr in FUNCTIONS
    )


def evaluated(call: ast.Call, names: dict) -> re.Pattern:
    def value(node: ast.expr):
        return eval(compile(ast.Expression(node), "pattern", "eval"), dict(names))

    flags = [each.value for each in call.keywords if each.arg == "flags"]
    flags += call.args[{"compile": 1, "match": 2, "fullmatch": 2, "search": 2}.get(
        call.func.attr, 99) :][:1]  # fmt: skip
    return re.compile(value(call.args[0]), value(flags[0]) if flags else 0)


def hostile(pattern: re.Pattern, size: int) -> list:
    """Text of about `size` characters: for each thing that a pattern repeats, what may stand before
    it and then that, again and again, with an end that fits and ends that do not; and beginnings of
    a match, one after the other, so that each is tried."""
    source = pattern.pattern
    whole = parser.parse(source, pattern.flags)
    pieces = list(dict.fromkeys(repeated(list(whole), "")))[:MAX_SAMPLES]
    texts = []
    for before, again in pieces:
        count = max(1, size // max(1, len(again)))
        for end in ("", "\x01", "\n\x01", again[:1] + "\x01"):
            texts.append(before + again * count + end)
        start = before + again
        texts += [start * max(1, size // max(1, len(start))) + end for end in ("", "\x01")]
        half = before + again * 30
        texts.append(half * max(1, size // len(half)) if half else "")
    return [text.encode("latin-1", "replace") if isinstance(source, bytes) else text
            for text in texts]  # fmt: skip


def repeated(items, before):
    """(what stands before it, one round of it) for each repetition of a parsed pattern."""
    for at, (kind, value) in enumerate(items):
        prefix = before + sample(items[:at])
        if kind in (kinds.MAX_REPEAT, kinds.MIN_REPEAT, kinds.POSSESSIVE_REPEAT):
            body = list(value[2])
            for one in variants(body):
                yield prefix, one
            yield from repeated(body, prefix)
        elif kind is kinds.SUBPATTERN:
            yield from repeated(list(value[3]), prefix)
        elif kind is kinds.ATOMIC_GROUP:
            yield from repeated(list(value), prefix)
        elif kind is kinds.BRANCH:
            for branch in value[1]:
                yield from repeated(list(branch), prefix)
                yield prefix, sample(list(branch))
    yield before, sample(items)


def variants(body):
    """One round with different members of its first set."""
    yield sample(body)
    if len(body) == 1 and body[0][0] is kinds.IN:
        for member in body[0][1][:6]:
            yield sample([(kinds.IN, [member])])
    if body and body[0][0] is kinds.ANY:
        yield " "


def sample(items) -> str:
    """A short text that matches a parsed pattern, more or less."""
    return "".join(one(kind, value) for kind, value in items)


def one(kind, value) -> str:
    if kind is kinds.LITERAL:
        return chr(value)
    if kind is kinds.NOT_LITERAL:
        return "b" if value != ord("b") else "c"
    if kind is kinds.ANY:
        return "a"
    if kind is kinds.IN:
        return member_of(value)
    if kind in (kinds.MAX_REPEAT, kinds.MIN_REPEAT, kinds.POSSESSIVE_REPEAT):
        return sample(list(value[2])) * max(1, min(value[0], 3))
    if kind is kinds.SUBPATTERN:
        return sample(list(value[3]))
    if kind is kinds.ATOMIC_GROUP:
        return sample(list(value))
    if kind is kinds.BRANCH:
        return sample(list(value[1][0]))
    return ""  # a place: ^ $ \b, look-around, a back-reference


CATEGORIES = {
    kinds.CATEGORY_SPACE: " ",
    kinds.CATEGORY_DIGIT: "1",
    kinds.CATEGORY_WORD: "a",
    kinds.CATEGORY_NOT_SPACE: "a",
    kinds.CATEGORY_NOT_DIGIT: "a",
    kinds.CATEGORY_NOT_WORD: "-",
}


def member_of(members) -> str:
    kind, value = members[0]
    if kind is kinds.NEGATE:
        refused = {member_of([member]) for member in members[1:]}
        return next(each for each in "a b1-<" if each not in refused)
    if kind is kinds.LITERAL:
        return chr(value)
    if kind is kinds.RANGE:
        return chr(value[0])
    return CATEGORIES[value]


def use(pattern: re.Pattern, method: str, text) -> None:
    """One search, to its end where the method gives an iterator."""
    if method in ("sub", "subn"):
        getattr(pattern, method)(text[:0], text)
    else:
        found = getattr(pattern, method)(text)
        if method == "finditer":
            for _ in found:
                pass
