"""Expand the templates beside this file into labelled rows; the same seed gives the same rows.

A section's head line is ``== name rows=N head=0|1 …``: its templates follow, one a line, with ``{slot}`` for a random entry of
``slots.txt``. ``{Slot}`` is the same with a capital; ``{slot:word}`` draws once and repeats. A head that is not named and is
not covered by ``clean`` is unknown. Templates, not rows, are split, so that ``tune`` and ``test`` hold unseen wording; of the
slots that hold sentences, some entries are kept for ``test`` too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.content_filter.texts.noise import noise

HERE = Path(__file__).parent
ALL = ("harm", "hate", "harass", "sexual", "violence", "selfharm", "attack")
NOISE = 500
_SLOT = re.compile(r"\{(\w+)(?::(\w+))?\}")


@dataclass
class Section:
    """Templates that share labels."""

    name: str
    count: int
    labels: dict[str, int]
    weight: float
    templates: list[str] = field(default_factory=list)


def sections(path: Path) -> Iterator[Section]:
    """Yield the sections of a template file."""
    section: Section | None = None
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.startswith("== "):
            if section:
                yield section
            section = _head(line)
        elif line.strip() and not line.startswith("# ") and section:
            section.templates.append(line.replace("\\n", "\n"))
    if section:
        yield section


def _head(line: str) -> Section:
    name, *words = line[3:].split()
    settings = dict(word.split("=") for word in words if "=" in word)
    count, weight = int(settings.pop("rows")), float(settings.pop("w", 1.0))
    labels = dict.fromkeys(ALL, 0) if "clean" in words else {}
    return Section(name, count, labels | {head: int(value) for head, value in settings.items()}, weight)


def slots(path: Path) -> dict[str, list[str]]:
    """Return the entries of each slot."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").split("\n"):
        name, colon, entries = line.partition(": ")
        if colon and not line.startswith("# "):
            found.setdefault(name, []).extend(entry.strip() for entry in entries.split(" | "))
    return found


def expand(template: str, entries: dict[str, list[str]], chance: random.Random) -> str:
    """Fill the slots of a template, and those of what fills them."""
    drawn: dict[str, str] = {}

    def fill(match: re.Match[str]) -> str:
        name, key = match[1], match[2]
        options = entries[name if name in entries else name[0].lower() + name[1:]]
        text = drawn.get(key) if key else None
        text = text if text is not None else expand(chance.choice(options), entries, chance)
        if key:
            drawn[key] = text
        return text if name in entries else text[:1].upper() + text[1:]

    return _SLOT.sub(fill, template)


def entries_of(split: str, entries: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the entries that a split draws from: ``test`` has the sentences that the others never see, where there are any."""
    held = {
        name: [each for each in options if each.count(" ") > 2 and split_of(each) == "test"]
        for name, options in entries.items()
    }
    if split == "test":
        return {name: held[name] or options for name, options in entries.items()}
    return {name: [each for each in options if each not in held[name]] for name, options in entries.items()}


def split_of(template: str) -> str:
    """Return the split that a template's rows belong to."""
    place = hashlib.sha256(template.encode()).digest()[0]
    return "test" if place < 26 else "tune" if place < 46 else "train"


def disguised(text: str, chance: random.Random) -> str:
    """Return the text as someone who evades filters would type it, one trick of several."""
    words = text.split(" ")
    place = max(range(len(words)), key=lambda index: len(words[index]) + chance.random() * 4)
    word = words[place]
    middle = chance.randrange(1, max(2, len(word) - 1))
    tricks = (
        word[:middle] + word[middle : middle + 2][::-1] + word[middle + 2 :],
        word[:middle] + word[middle + 1 :],
        word[:middle] + word[middle : middle + 1] * 2 + word[middle:],
        word[:middle] + "*" + word[middle + 1 :],
        word.translate(str.maketrans("aeiost", "@31057")),
        " ".join(word),
        ".".join(word),
    )
    trick = chance.randrange(len(tricks) + 1)
    if trick == len(tricks):
        return "".join(words) if len(words) < 7 else text.upper()
    return " ".join([*words[:place], tricks[trick], *words[place + 1 :]])


def generate(seed: int) -> Iterator[dict[str, Any]]:
    """Yield every row, without repeats."""
    every = slots(HERE / "slots.txt")
    entries = {split: entries_of(split, every) for split in ("train", "tune", "test")}
    seen: set[str] = set()
    for path in sorted(HERE.glob("*.tmpl")):
        for section in sections(path):
            chance = random.Random(f"{seed} {section.name}")  # noqa: S311
            for number in range(section.count):
                template = section.templates[number % len(section.templates)]
                split = split_of(template)
                text = _styled(expand(template, entries[split], chance), chance)
                if "disguise" in section.name:
                    text = disguised(text, chance)
                if text not in seen:
                    seen.add(text)
                    row = {"text": text, "src": f"written_{section.name}", "lic": "ok", "y": section.labels}
                    yield row | {"w": section.weight, "split": split}


def meaningless(seed: int) -> Iterator[dict[str, Any]]:
    """Yield rows of noise, all heads 0."""
    chance = random.Random(f"{seed} noise")  # noqa: S311
    for _ in range(NOISE):
        text = noise(chance)
        labels = dict.fromkeys(ALL, 0)
        yield {"text": text, "src": "written_noise", "lic": "ok", "y": labels, "w": 0.7, "split": split_of(text)}


def _styled(text: str, chance: random.Random) -> str:
    """Vary case and the final stop, which people leave out as they please."""
    style = chance.random()
    if style < 0.2:
        text = text.lower()
    return text.removesuffix(".") if style > 0.75 else text


def main() -> None:
    """Write the rows as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    lines = [json.dumps(row, ensure_ascii=False) for row in (*generate(arguments.seed), *meaningless(arguments.seed))]
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} rows")


if __name__ == "__main__":
    main()
