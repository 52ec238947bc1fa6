"""Report pages as tests read them."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

from reports.page import write_report

VOID = {"meta", "img", "br", "path", "link", "hr"}


class Page(HTMLParser):
    """Collects what a test asks of a page, and follows open and closed tags."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.images, self.tags, self.text, self.errors = [], [], [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        about = dict(attributes)
        self.tags.append((tag, about))
        self.ids += [about["id"]] if "id" in about else []
        self.links += [about["href"]] if "href" in about else []
        self.images += [about] if tag == "img" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def page_of(root):
    text = write_report(root).read_text(encoding="utf-8")
    return text, Page(text)


def facts_of(path):
    """Return the facts that a viewer holds."""
    found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', path.read_text(encoding="utf-8"))
    return json.loads(found.group(1))


def check_sound(text, page):
    """Assert what holds for every page: balanced tags, unique ids, no dead link, nothing from outside, one script."""
    assert not page.errors and not page.open
    assert len(set(page.ids)) == len(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert all(image["alt"].strip() and image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert all(about["scope"] in ("col", "row") for tag, about in page.tags if tag == "th")
    assert not {"iframe", "object", "embed", "form", "link", "base"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") or name in ("srcset", "action") for _, about in page.tags for name in about)
    assert not re.search(r"url\(|@import|https?:", text)
    (policy,) = [about["content"] for tag, about in page.tags if about.get("http-equiv") == "Content-Security-Policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    assert dict(page.tags[0][1]) == {"lang": "en"} and {"main", "header", "footer"} <= {tag for tag, _ in page.tags}
