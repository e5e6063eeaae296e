"""Checks that every link of a built book leads to a file and an anchor of it. Links to other hosts are not followed."""

import pathlib
import sys
import urllib.parse
from html.parser import HTMLParser

ROOT = pathlib.Path(sys.argv[1]).resolve()


class Page(HTMLParser):
    """The ids and the links of one page."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def broken(path, page, link):
    """Why a link leads nowhere, or None."""
    url = urllib.parse.urlsplit(link)
    if url.scheme in ("https", "data"):
        return None
    if url.scheme or url.netloc:
        return "use https"
    base = ROOT if url.path.startswith("/") else path.parent
    target = (base / urllib.parse.unquote(url.path).lstrip("/")).resolve() if url.path else path
    if not target.is_file():
        return "there is no such file"
    if url.fragment and target.suffix == ".html":
        known = page if target == path else pages.get(target)
        if known and urllib.parse.unquote(url.fragment) not in known.ids:
            return "there is no such anchor"
    return None


# 404.html is served for any path, so its links mean nothing on a disk.
pages = {path: Page(path) for path in sorted(ROOT.rglob("*.html")) if path.name != "404.html"}
count, wrong = 0, []
for path, page in pages.items():
    for link in page.links:
        count += 1
        reason = broken(path, page, link)
        if reason:
            wrong.append(f"{path.relative_to(ROOT)}: {link}: {reason}")
print("\n".join(wrong) or f"{count} links of {len(pages)} pages lead somewhere")
sys.exit(bool(wrong) or count == 0)
