"""The text of something shown, whatever forms it was shown in.

Silence is the worst answer: what has no plain text, or one that only names its class, is read in
the best of its other forms, and what no form of can be read is named. Pure.
"""

import json
import re
from collections.abc import Mapping
from html import unescape
from typing import Any

#: a plain text that says nothing but of what class it is
BARE = re.compile(r"\s*<[\w.]+( object)?( at 0x[0-9a-f]+)?>\s*")
#: forms that are pictures: shown as such, or named with their file
PICTURES = (
    *("image/png", "image/jpeg", "image/gif", "image/webp"),
    *("image/svg+xml", "image/bmp", "image/tiff"),
)
READ_CHARS = 50_000  # of a form that has to be read to be told
SKIPPED = ("script", "style", "head", "template")
#: elements that begin a line, and those that are apart in one
LINES = (
    *("p", "div", "br", "li", "tr", "table", "ul", "ol", "pre", "section", "header", "footer"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "dt", "dd", "hr"),
)
CELLS = ("td", "th")
TAG_CHARS = 20  # that its name is within
#: key in a display's metadata: MIME type -> path of the saved original, in the workspace
SAVED = "kernelry_saved"
#: what stands for a picture where there is no picture
STAND_IN = re.compile(r"\s*<[^<>\n]{1,300}>\s*")


def is_told(data: Mapping[str, Any]) -> bool:
    """Say whether the plain text of a display tells what it is."""
    plain = joined(data.get("text/plain"))
    return bool(plain) and BARE.fullmatch(plain) is None


def text_in(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Return the text of a display; "" where it is a picture that says no more.

    Args:
        data: MIME type -> form.
        metadata: The display's, with what was saved of it.
    """
    plain = joined(data.get("text/plain"))
    saved = metadata.get(SAVED)
    saved = saved if isinstance(saved, dict) else {}
    is_picture = any(mime in PICTURES for mime in (*data, *saved))
    if is_told(data) and not (is_picture and STAND_IN.fullmatch(plain)):
        return plain
    for mime in ("text/markdown", "text/latex"):
        if text := joined(data.get(mime)).strip():
            return text
    if "application/json" in data:
        return encoded(data["application/json"])
    if is_picture:
        return ""
    if text := html_text(joined(data.get("text/html"))[:READ_CHARS]):
        return text
    others = {mime: form for mime, form in data.items() if mime != "text/plain"}
    if plain or not (others or saved):
        return plain
    kinds = [
        f"{mime} of {size_of(others[mime])} characters" if mime in others else mime
        for mime in {**others, **saved}
    ]
    kept = "saved" if saved else "export_notebook has it"
    return f"[shown without a text: {', '.join(kinds)}; {kept}]"


def joined(form: Any) -> str:
    """Return a form of text, which may be a list of its lines."""
    if isinstance(form, list):
        return "".join(map(str, form))
    return form if isinstance(form, str) else ""


def encoded(form: Any) -> str:
    """Return a form as JSON, as much of it as is read."""
    parts: list[str] = []
    size = 0
    for part in json.JSONEncoder(ensure_ascii=False, default=str).iterencode(form):
        parts.append(part)
        size += len(part)
        if size > READ_CHARS:
            break
    return "".join(parts)[:READ_CHARS]


def size_of(form: Any) -> str:
    """Say how many characters a form has."""
    size = len(form) if isinstance(form, str) else len(encoded(form))
    return f"{size:,}" if isinstance(form, str) or size < READ_CHARS else f"over {READ_CHARS:,}"


def html_text(html: str) -> str:
    """Return the text of HTML: a line for each block, cells of a table apart.

    In one pass, whatever it is: the standard library's parser takes a minute for 50,000
    characters of ``<a `` (measured on Python 3.11), and who shows them is not our friend.
    """
    parts: list[str] = []
    at = 0
    while (begin := html.find("<", at)) >= 0:
        parts.append(html[at:begin].replace("\n", " "))
        end = -1
        if html.startswith("<!--", begin):
            end = html.find("-->", begin)
        elif (end := html.find(">", begin)) >= 0:
            name = html[begin + 1 : min(end, begin + TAG_CHARS)].strip("/ \n\t").lower()
            name = name.split()[0].rstrip("/") if name.split() else ""
            if name in SKIPPED and html[begin + 1] != "/":
                closing = re.compile(f"</{name}", re.IGNORECASE).search(html, end)
                end = html.find(">", closing.start()) if closing else -1
            elif name in LINES:
                parts.append("\n")
            elif name in CELLS and html[begin + 1] != "/":
                parts.append("  ")
        if end < 0:
            break
        at = html.index(">", end) + 1
    else:
        parts.append(html[at:].replace("\n", " "))
    lines = (" ".join(line.split()) for line in unescape("".join(parts)).split("\n"))
    return "\n".join(filter(None, lines))
