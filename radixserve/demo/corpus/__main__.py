"""Prints dialogues for reading: ``python -m radixserve.demo.corpus --seed 1 --split values``."""

import argparse
import random

from radixserve.demo.corpus.dialogue import Dialogue, Split
from radixserve.demo.corpus.generate import make_dialogue


def shown(dialogue: Dialogue) -> str:
    """The dialogue for human eyes."""
    lines = [dialogue.system, ""]
    for turn in dialogue.turns:
        lines += [f"[{turn.kind}] {turn.question}", f"    {turn.answer}"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m radixserve.demo.corpus", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="which dialogues")
    parser.add_argument("--split", type=Split, choices=list(Split), default=Split.TRAIN)
    parser.add_argument("-n", type=int, default=1, help="how many")
    parser.add_argument("--characters", type=int, default=2500, help="about how long each")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    for _ in range(options.n):
        print(shown(make_dialogue(rng, split=options.split, max_characters=options.characters)))
        print("=" * 100)


if __name__ == "__main__":
    main()
