"""System messages: an instruction, the document, and the words that join them."""

from radixserve.demo.corpus.chance import Chance

ROLES = (
    "You are a helpful assistant.",
    "You are an assistant.",
    "You are a friendly assistant.",
    "You help people who have questions.",
    "You are a careful reader.",
    "You are the help desk.",
    "You answer the questions of our visitors.",
    "You are a polite and exact assistant.",
    "You work at our front desk.",
    "You are an expert on the text below.",
)
RULES = (
    "Answer questions about the document.",
    "Answer from the document only.",
    "Use the document to answer.",
    "Answer in one sentence.",
    "Keep your answers short.",
    "Be brief and exact.",
    "If the document does not say it, say so.",
    "Do not make anything up.",
    "Read the document first.",
    "Answer with facts from the document.",
    "Say so if something is not in the document.",
    "Remember what the user tells you.",
)
JOINTS = (
    "Document:\n",
    "Document:\n\n",
    "Here is the document:\n\n",
    "The document:\n",
    "This is the document:\n\n",
    "---\n",
    "Context:\n",
    "Text:\n\n",
    "",
    "",
    "# Document\n\n",
    "<document>\n",
)


def instruction(chance: Chance) -> str:
    """What the assistant is told to be and do: nothing, a sentence, or a few."""
    parts = []
    if chance.hits(0.6):
        parts.append(chance.pick(ROLES))
    parts += chance.sample(RULES, chance.weighted(((0, 0.25), (1, 0.45), (2, 0.3))))
    return " ".join(parts)


def around(chance: Chance, told: str, document: str) -> str:
    """The whole message: the instruction first, or last, or none."""
    joint = chance.pick(JOINTS)
    body = joint + document + ("\n</document>" if joint.startswith("<") else "")
    if not told:
        return body
    if chance.hits(0.12):
        return f"{body}\n\n{told}"
    return f"{told}\n\n{body}" if chance.hits(0.7) else f"{told}\n{body}"
