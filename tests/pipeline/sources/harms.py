"""What may happen to a book's site, and the guard that must notice it."""

from pipeline.sources.book_site import always, content_length, page, sentence


def lose_chapters(site):
    del site.chapters[1:4]


def lose_text(site):
    for chapter in site.chapters[:3]:
        chapter.inside = chapter.inside[: int(len(chapter.inside) * 0.55)] + "</p>"


def captcha(site):
    site.fail("on-the-lamp", always(page(b"<html><body><h1>Are you human?</h1></body></html>")))


def consent_wall(site):
    said = b"<p>We value your privacy.</p>"
    body = b'<html><body><div id="maia-main"><div id="content">%b</div></div></body></html>' % said
    for slug in ("on-the-lamp", "on-the-tide"):
        site.fail(slug, always(page(body)))


def decode_wrongly(site):
    site.chapter("on-the-lamp").inside += "<p>" + "It’s broken".encode().decode("cp1252") + "</p>"


def shrink(site):
    site.chapter("on-the-lamp").inside = f"<h1>On the lamp</h1><p>{sentence('lamp', 2)}</p>"


def cut_off(site):
    site.fail("on-the-lamp", always(content_length(0.8)))


def move_away(site):
    site.pages[f"/{site.name}/table-of-contents/"] = (
        b"<html><body><h1>We are moving</h1></body></html>"
    )


HARMS = {
    "lost_chapters": lose_chapters,
    "lost_text": lose_text,
    "missing_content": captcha,
    "duplicate_chapters": consent_wall,
    "mojibake": decode_wrongly,
    "shrunken_chapters": shrink,
    "cut_off_pages": cut_off,
}
"""By the guard that must fail. Without its contents page (`move_away`) nothing is left for these to
judge."""
