"""Phrases that a reader would have to translate, and what to write instead.

`python tests/test_plain_words.py keras_moco/data docs/faq.md` prints where some files and folders have them.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A space stands for any white space, also for the line break within a comment or a string of several parts.
WORDS = {
    r"(?:hangs?|hung) on": "depends on",
    r"behind": "after, following, below",
    r"company": "group, batch statistics",
    r"tells?|told": "reports, logs, says; distinguishes",
    r"(?:left|leaves?|leaving) out": "skipped, omitted, without",
    r"(?:go|goes|going|gone|went) on(?! with this run)": "resumes, continues",  # that is in flagfiles of before
    r"by lot": "at random",
    r"trainings": "training runs",
    # Correct before another noun: "a training step".
    r"a training(?=[.,;:)]| (?:is|was|has|may|of|in|that|which|goes|from|to|by|with|at|ends|and|or))": "a training run",
    r"(?:all|nearly|are) (?:are |is |all )?one(?=\s?[.,:;)(])": "identical",
    r"lies(?! between| (?:in|within) \[)": "is, is stored",
    r"lie (?:beside|in (?:memory|the|a|other|files|it)|now|here|there|together)|lying": "are, are stored",
    r"learnt": "learned; the pre-trained weights",
    r"(?<!pyplot.)(?<!pyplot's.)figures|(?:an?|one|this|that|each|every|the) figure(?!\s?[,=(])": "metrics; plots",
    r"(?:uniform|random|same|several|three|ten|of|their|the) draws?": "random numbers; random subsets",
    r"so many": "a number of, n",
    r"no use for": "does not use",
    r"where there (?:is|are) none": "missing; if any; or None",
    r"anew": "again, from scratch",
    r"spread(?! (?:over|out|across|on)|\()": "embedding std",
    r"chance loss|loss of chance": "loss at chance level",
    r"subjects?": "evaluation target",
    r"kept apart": "separate",
    r"mended": "fixed",
    r"is sound": "is unaffected",
    r"strangers?": "untrusted sources, other people",
    r"one of both": "one or the other",
    r"what came out": "the results",
    r"turns? (?:of )?the hue|resize turned|turn hue": "shifts the hue; transposed",
    r"of everything random": "random seed",
}
SPACE = r"""[\s"'#\\]+f?["']?"""
PATTERNS = [
    (re.compile(rf"(?<![\w.])(?:{word})(?!\w)".replace(" ", SPACE), re.IGNORECASE), instead)
    for word, instead in WORDS.items()
]
READ = "*.md docs/*.md configs/*.cfg notebooks/*.ipynb *.py keras_moco/**/*.py".split()


def found_in(path):
    """`file:line: words -> what to write instead`, of the text of a file; of test files only the names of tests."""
    text = path.read_text(encoding="utf-8")
    if path.name.startswith("test_"):
        text = re.sub(r"(?m)^(?!.*\bdef test_).*$|\(.*", "", text).replace("_", " ")
    text = re.sub(r"(?<!`)`[^`\n]+`(?!`)", "`", text.replace("\\n", "  "))  # without names of code
    for pattern, instead in PATTERNS:
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{path}:{line}: {' '.join(match.group().split())} -> {instead}"


def test_text_is_plain_english():
    paths = [path for pattern in READ for path in ROOT.glob(pattern)] + [*ROOT.glob("tests/**/test_*.py")]
    assert [found for path in sorted(paths) for found in found_in(path)] == []


if __name__ == "__main__":
    for place in map(Path, sys.argv[1:]):
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            print(*found_in(path), sep="\n", end="\n" * any(found_in(path)))
