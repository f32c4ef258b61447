"""Train the demo model:

    python -m radixserve.demo.train --out demo-run --minutes 150
    python -m radixserve.demo.train --out demo-run --resume
    python -m radixserve.demo.train --out further --begin-with demo-run --seed 1 \\
        --shortest-rows 512 --matrix-rate 0.005 --other-rate 0.0008 \\
        --text-share 0.1 --text-weight 0.1

The text is made while it trains. Ctrl-C, SIGTERM or a power cut end a session; ``--resume`` goes on
from where it was, at most a minute earlier. The directory is an ordinary Hugging Face checkpoint
from the first examination on. What decides the result is the seed and the plan, which is printed,
logged and kept in the checkpoint (and the weights, where they are not drawn); ``--minutes`` only
chooses the plan's length by measuring this machine's speed (``--steps`` says it directly, and
repeats another machine's run). ``--begin-with`` is a new training that begins with another's
weights and tokenizer: at lower rates, with little of the text to learn (its loss would drown
the answers' by then), and with a seed of its own, or it is shown the same text.
"""

import argparse
import os
import sys
from pathlib import Path

from radixserve.errors import RadixServeError
from radixserve.threads import spin_briefly


def main(arguments: list[str] | None = None) -> int:
    """Begin or resume a training. Returns 0 when the session has ended as asked."""
    chosen = _parse(arguments)
    # Before anything loads torch: how its threads wait for each other.
    spin_briefly(os.environ)
    from radixserve.demo.preparation import begin, keep_memory, machine_of, resume  # noqa: PLC0415

    keep_memory()
    out = Path(chosen.out)
    try:
        machine = machine_of(chosen)
        training = (resume if chosen.resume else begin)(chosen, out, machine)
    except (RadixServeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    plan = training.plan
    print(
        f"{plan.shape.num_parameters:,} parameters, {plan.num_steps:,} steps of "
        f"{plan.tokens_per_step:,} tokens, {training.num_steps_done:,} of them done in "
        f"{training.elapsed_s / 60:.0f} minutes",
        flush=True,
    )
    training.run(max_session_s=60 * chosen.session_minutes)
    if training.is_done:
        print(f"done in {training.elapsed_s / 60:.0f} minutes: {out}")
    else:
        print(f"paused at step {training.num_steps_done:,}; go on with --resume")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m radixserve.demo.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", required=True, help="directory of the training, and of the model")
    add("--resume", action="store_true", help="go on from the directory's checkpoint")
    add("--session-minutes", type=float, default=float("inf"), help="pause after so long")
    add("--minutes", type=float, default=150.0, help="length of the training (default: 150)")
    add("--steps", type=int, help="length of the training in steps, whatever time they take")
    add("--seed", type=int, default=0, help="of text, batches and drawn weights (default: 0)")
    add(
        "--begin-with",
        metavar="DIRECTORY",
        help="a trained checkpoint, whose shape, weights and tokenizer are taken",
    )
    shape = [
        add("--vocab", dest="vocab_size", type=int, help="tokens of the tokenizer (default: 2048)"),
        add("--layers", dest="num_layers", type=int, help="default: 6"),
        add("--hidden", dest="hidden_size", type=int, help="width of the stream (default: 256)"),
        add("--intermediate", dest="intermediate_size", type=int, help="of the MLP (default: 640)"),
        add("--heads", dest="num_heads", type=int, help="of 64 channels each (default: 4)"),
        add("--kv-heads", dest="num_kv_heads", type=int, help="default: 4"),
    ]
    add(
        "--shortest-rows",
        type=int,
        default=0,
        metavar="TOKENS",
        help="leave out the stages whose rows are shorter (default: none)",
    )
    add("--tokens-per-step", type=int, default=8192)
    add("--text-share", type=float, default=1 / 3, help="of the text, learnt from (default: 1/3)")
    add("--text-weight", type=float, default=1.0, help="of such a token (an answer's: 1)")
    add("--matrix-rate", type=float, default=0.02, help="Muon's learning rate (default: 0.02)")
    add("--other-rate", type=float, default=0.003, help="AdamW's learning rate (default: 0.003)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--dtype", choices=("auto", "bfloat16", "float32"), default="auto")
    add("--threads", type=int, help="of torch (default: its own choice)")
    add("--workers", type=int, default=1, help="processes that make text (default: 1)")
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compile the layers; needs a C++ compiler (default: yes)",
    )
    chosen = parser.parse_args(arguments)
    if chosen.begin_with is not None:
        if chosen.resume:
            parser.error("a training that goes on has its weights; leave out --begin-with")
        for flag in shape:
            if getattr(chosen, flag.dest) is not None:
                name = flag.option_strings[0]
                parser.error(f"--begin-with takes the checkpoint's own shape; leave out {name}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
