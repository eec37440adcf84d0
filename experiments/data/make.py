#!/usr/bin/env python3
"""Writes wordnet.tsv, tokenizer.json and digits.csv anew, byte for byte.

    make.py WORDNET_FOLDER

WORDNET_FOLDER holds data.noun of WordNet 3.0 (Debian's package wordnet-base has it under /usr/share/wordnet). The digits come
from the package scikit-learn, pieces of words are made by the package tokenizers: both have to be installed.
"""

import random
import sys
from pathlib import Path

# Lexicographer files of nouns, by the number that data.noun has for them.
CATEGORIES = {
    "05": "animal",
    "06": "artifact",
    "08": "body",
    "13": "food",
    "15": "location",
    "18": "person",
    "20": "plant",
    "27": "substance",
}
# As many definitions of each: no category is likelier than another.
EACH = 1700
# Pieces of words, of bytes, that occur most.
PIECES = 2000
HERE = Path(__file__).parent


def definitions(data):
    """The definitions of each category, without their examples, each once and in one category alone."""
    found = {}
    for line in data.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue  # The licence stands before the data.
        synset, gloss = line.split(" | ", 1)
        category = CATEGORIES.get(synset.split()[1])
        if category:
            definition = " ".join(gloss.split('; "')[0].split())
            found.setdefault(definition, set()).add(category)
    made = {name: [] for name in CATEGORIES.values()}
    for definition, categories in found.items():
        if len(categories) == 1:
            made[categories.pop()].append(definition)
    return made


def wordnet(folder):
    draw = random.Random(0)
    rows = []
    for name, found in definitions(folder / "data.noun").items():
        rows += [f"{name}\t{definition}\n" for definition in draw.sample(found, EACH)]
    draw.shuffle(rows)
    (HERE / "wordnet.tsv").write_text("".join(rows), encoding="utf-8", newline="\n")


def tokenizer():
    from tokenizers import ByteLevelBPETokenizer

    rows = (HERE / "wordnet.tsv").read_text(encoding="utf-8").splitlines()
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(
        (row.split("\t")[1] for row in rows), vocab_size=PIECES, show_progress=False
    )
    made.save(str(HERE / "tokenizer.json"), pretty=False)


def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    rows = [
        ",".join(str(int(value)) for value in [*image, label]) + "\n"
        for image, label in zip(data.data, data.target)
    ]
    (HERE / "digits.csv").write_text("".join(rows), encoding="ascii", newline="\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    wordnet(Path(sys.argv[1]))
    tokenizer()
    digits()
