"""The prompt of a turn that follows a stored one, in the tokens that the stored one was made of.

Rendered anew, an earlier answer is tokenized anew, and a tokenizer need not give the tokens that
the model chose: "hel" + "lo" comes back as "hello", and from there on the cache has nothing. So the
old ids are kept, and only what follows them is tokenized:

    stored      prompt ids | answer ids                       text O
    rendered    ................................ | suffix     text R, which begins with O
    continued   prompt ids | answer ids | ids of the suffix   text R

Only where R does begin with O: the continued prompt says to the letter what the template renders.
Templates that rewrite history (drop earlier thinking, trim answers, write calls in a way of their
own), other instructions and other tools make another text, which is then taken as it is rendered:
right first, cached second.

The token that ended the answer is no part of O: the template writes its own end of a turn, and the
cache never holds the last sampled token.

Cost: decoding both and encoding the suffix, O(prompt), in a thread.
"""

from collections.abc import Sequence

from radixserve.text.tokenizer import Tokenizer


def continue_ids(
    tokenizer: Tokenizer, stored_ids: Sequence[int], rendered_ids: Sequence[int]
) -> list[int]:
    """``rendered_ids`` in the stored tokens, as far as these say the same; else themselves."""
    rendered = tokenizer.decode(rendered_ids, skip_special_tokens=False)
    stored = tokenizer.decode(stored_ids, skip_special_tokens=False)
    if not rendered.startswith(stored):
        return list(rendered_ids)
    suffix = tokenizer.encode(rendered[len(stored) :], add_special_tokens=False)
    continued = [*stored_ids, *suffix]
    # Some tokenizers put a space before whatever they encode; some ids end inside a character.
    if tokenizer.decode(continued, skip_special_tokens=False) != rendered:
        return list(rendered_ids)
    return continued
