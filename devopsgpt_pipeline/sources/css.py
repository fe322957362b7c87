"""CSS selectors on a page's tree, in time linear in its elements.

cssselect makes XPath, whose `//` libxml2 answers by comparing all elements found with all others:
`ol a` on 95,000 links in 240 nested lists ran for over nine minutes. So each compound of a selector
is an XPath of its own, and what stands between two of them is looked up here.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cssselect
from cssselect.parser import CombinedSelector
from cssselect.xpath import XPathExpr
from lxml import etree

from devopsgpt_pipeline.sources.html import Element

STEPS: dict[str, tuple[Callable[[Element], Element | None], bool]] = {
    " ": (Element.getparent, True),
    ">": (Element.getparent, False),
    "~": (Element.getprevious, True),
    "+": (Element.getprevious, False),
}
"""Combinator -> where the element on its left stands, and whether any number of steps away."""


class Selector:
    """A selector, read. raises: ValueError for one that cannot be"""

    def __init__(self, text: str) -> None:
        try:
            self.groups = [_compiled(group.parsed_tree) for group in cssselect.parse(text)]
        except (cssselect.SelectorError, etree.XPathError) as error:
            raise ValueError(
                f"a selector must be CSS, got {text!r} ({error}); see the TOML of a shipped book"
            ) from error

    def within(self, tree: Element) -> list[Element]:
        """Every element of the tree that matches, in the page's order."""
        first, *others = [_matching(group, tree) for group in self.groups]
        if not others:
            return first
        found = set(first).union(*others)
        return [element for element in tree.iter() if element in found]


@lru_cache(maxsize=256)
def read_selector(text: str) -> Selector:
    """A selector, compiled once. raises: ValueError for one that cannot be read"""
    return Selector(text)


def select(tree: Element, selector: str) -> list[Element]:
    """Every element of tree that the selector matches, in the page's order."""
    return read_selector(selector).within(tree)


class _Translator(cssselect.HTMLTranslator):
    """cssselect's own count all siblings of each element to know whether it is the first."""

    def xpath_first_child_pseudo(self, xpath: XPathExpr) -> XPathExpr:
        return xpath.add_condition("not(preceding-sibling::*[1])")

    def xpath_last_child_pseudo(self, xpath: XPathExpr) -> XPathExpr:
        return xpath.add_condition("not(following-sibling::*[1])")


def _compiled(selector: Any) -> Any:
    """An XPath, or (what stands left, combinator, XPath)."""
    if isinstance(selector, CombinedSelector):
        return _compiled(selector.selector), selector.combinator, _compiled(selector.subselector)
    return etree.XPath(f"descendant-or-self::{_Translator().xpath(selector)}")


def _matching(selector: Any, tree: Element) -> list[Element]:
    if isinstance(selector, etree.XPath):
        found: Any = selector(tree)
        return list(found)
    left, combinator, right = selector
    candidates = _matching(right, tree)
    wanted = set(_matching(left, tree)) if candidates else set()
    step, far = STEPS[combinator]
    if not far:
        return [element for element in candidates if step(element) in wanted]
    known: dict[Element, bool] = {}
    return [element for element in candidates if _leads_to(wanted, element, step, known)]


def _leads_to(
    wanted: set[Element],
    element: Element,
    step: Callable[[Element], Element | None],
    known: dict[Element, bool],
) -> bool:
    """Whether steps from an element meet a wanted one. known: for each element that was passed,
    whether it or one behind it is wanted; so nobody goes the same way twice"""
    passed: list[Element] = []
    answer, at = False, step(element)
    while at is not None:
        if at in known:
            answer = known[at]
            break
        passed.append(at)
        if at in wanted:
            answer = True
            break
        at = step(at)
    known.update(dict.fromkeys(passed, answer))
    return answer
