"""llama.cpp in a process and a Python of its own: requests in as JSON lines, answers out likewise.

    python -m peers_parts.llama_worker

Needs ``llama_cpp``, ``gguf`` and numpy there; knows nothing of radixserve. Holds one model and one
context between requests and waits on standard input meanwhile, so that it costs the others nothing
while they are measured (its OpenMP threads spin for some milliseconds, then sleep). Times are taken
here: no pipe and no JSON is in them.

A run is llama.cpp's own batched decoding: what all prompts share is decoded once, as sequence 0,
and copied to the others (in a unified KV cache this copies no keys and values, only who sees them);
then the rest of all prompts, in batches of ``n_batch``; then one token of every sequence a step,
chosen by argmax. From an empty KV cache each time.
"""

import ctypes
import importlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peers_parts.gguf_file import write_gguf
from peers_parts.serving import serve_stdio

PAD_TOKENS = 256
"""llama.cpp rounds the cells of a KV cache up to this."""


class Batch:
    """Room for ``size`` tokens, in llama.cpp's layout, over numpy's memory."""

    def __init__(self, llama: Any, size: int) -> None:
        self.tokens = np.zeros(size, np.int32)
        self.positions = np.zeros(size, np.int32)
        self.sequences = np.zeros(size, np.int32)
        self.wanted = np.zeros(size, np.int8)
        self._ones = np.ones(size, np.int32)
        self._size = size
        # llama.cpp takes a list of sequences for each token: here each is one long.
        pointer = ctypes.POINTER(ctypes.c_int32)
        step = self.sequences.itemsize
        base = self.sequences.ctypes.data
        self._lists = (pointer * size)(
            *(ctypes.cast(base + place * step, pointer) for place in range(size))
        )
        self._batch = llama.llama_batch(
            n_tokens=0,
            token=self.tokens.ctypes.data_as(pointer),
            embd=None,
            pos=self.positions.ctypes.data_as(pointer),
            n_seq_id=self._ones.ctypes.data_as(pointer),
            seq_id=ctypes.cast(self._lists, ctypes.POINTER(pointer)),
            logits=self.wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
        self._llama = llama

    def decode(self, context: Any, count: int) -> None:
        """Run the first ``count`` tokens. *Raises* ``RuntimeError`` if llama.cpp refuses."""
        self._batch.n_tokens = count
        status = self._llama.llama_decode(context, self._batch)
        if status != 0:
            raise RuntimeError(f"llama_decode of {count} tokens returned {status}")


class Worker:
    """One model and one context, if told to make them. A method of a request's name answers it."""

    def __init__(self) -> None:
        self._llama: Any = importlib.import_module("llama_cpp")
        # What is said while loading is of no interest; what fails is told by the call that fails.
        self._quiet = self._llama.llama_log_callback(lambda _level, _text, _data: None)
        self._llama.llama_log_set(self._quiet, ctypes.c_void_p(0))
        self._llama.llama_backend_init()
        self._model: Any = None
        self._context: Any = None
        self._batch: Batch | None = None
        self._num_sequences = 0
        self._vocab_size = 0

    def about(self) -> dict[str, Any]:
        """Version, and what llama.cpp was compiled to use."""
        said = self._llama.llama_print_system_info().decode()
        features = [part.strip() for part in said.partition("|")[0].split(",")]
        names = said.replace("CPU :", "").split("|")
        used = [name.split("=")[0].strip() for name in names if name.strip().endswith("= 1")]
        return {"version": self._llama.__version__, "features": used or features}

    def write_gguf(self, checkpoint: str, target: str) -> None:
        """Write the checkpoint as a GGUF file."""
        write_gguf(Path(checkpoint), Path(target))

    def quantize(self, source: str, target: str, threads: int) -> None:
        """Write ``source`` anew in q8_0, every matrix and the embedding table."""
        params = self._llama.llama_model_quantize_default_params()
        params.ftype = self._llama.LLAMA_FTYPE_MOSTLY_Q8_0
        params.nthread = threads
        partial = f"{target}.{os.getpid()}"
        status = self._llama.llama_model_quantize(
            source.encode(), partial.encode(), ctypes.byref(params)
        )
        if status != 0:
            raise RuntimeError(f"llama_model_quantize returned {status}")
        os.replace(partial, target)

    def load(self, path: str) -> dict[str, Any]:
        """Make this the model; the one before, and its context, go."""
        self._close_context()
        if self._model is not None:
            self._llama.llama_model_free(self._model)
        params = self._llama.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = self._llama.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp could not load {path}")
        vocab = self._llama.llama_model_get_vocab(self._model)
        self._vocab_size = int(self._llama.llama_vocab_n_tokens(vocab))
        return {"num_parameters": int(self._llama.llama_model_n_params(self._model))}

    def open(
        self,
        cells: int,
        sequences: int,
        threads: int,
        n_batch: int,
        n_ubatch: int,
        flash_attn: bool,
        kv_unified: bool,
    ) -> None:
        """Make a context whose KV cache has ``cells`` in all (if not unified: in equal parts)."""
        self._close_context()
        params = self._llama.llama_context_default_params()
        params.n_ctx = -(-cells // PAD_TOKENS) * PAD_TOKENS
        params.n_seq_max = sequences
        params.n_batch = n_batch
        params.n_ubatch = n_ubatch
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = int(flash_attn)
        params.kv_unified = kv_unified
        params.swa_full = False
        params.no_perf = True
        self._context = self._llama.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("llama.cpp could not make a context of these settings")
        self._batch = Batch(self._llama, n_batch)
        self._num_sequences = sequences

    def run(self, prompts: list[list[int]], shared: int, new: int) -> dict[str, Any]:
        """Continue every prompt by ``new`` tokens. Seconds in all and of the prefill, milliseconds
        of each decode step, and the tokens."""
        assert len(prompts) <= self._num_sequences, (len(prompts), self._num_sequences)
        memory = self._llama.llama_get_memory(self._context)
        # Writes zeros all over the cache: no part of the run, whose cache is empty already.
        self._llama.llama_memory_clear(memory, True)
        begun = time.perf_counter()
        if shared:
            self._prefill([prompts[0][:shared]], 0)
            for sequence in range(1, len(prompts)):
                self._llama.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
        newest = self._prefill([prompt[shared:] for prompt in prompts], shared)
        prefilled = time.perf_counter()
        chosen = [newest]
        lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        step_ms = []
        for step in range(new - 1):
            step_begun = time.perf_counter()
            newest = self._step(newest, lengths + step)
            chosen.append(newest)
            step_ms.append((time.perf_counter() - step_begun) * 1e3)
        ended = time.perf_counter()
        return {
            "total_s": ended - begun,
            "prefill_s": prefilled - begun,
            "step_ms": step_ms,
            "tokens": np.stack(chosen, axis=1).tolist(),
        }

    def _prefill(self, parts: Sequence[Sequence[int]], position: int) -> NDArray[np.int32]:
        """Run one part of each sequence, all of them from ``position``. Each one's next token."""
        batch = self._batch
        assert batch is not None
        lengths = [len(part) for part in parts]
        tokens = np.concatenate([np.asarray(part, np.int32) for part in parts])
        positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        sequences = np.repeat(np.arange(len(parts), dtype=np.int32), lengths)
        wanted = np.zeros(len(tokens), np.int8)
        wanted[np.cumsum(lengths) - 1] = 1
        found = []
        size = len(batch.tokens)
        for begin in range(0, len(tokens), size):
            run = slice(begin, begin + size)
            count = len(tokens[run])
            batch.tokens[:count] = tokens[run]
            batch.positions[:count] = positions[run] + position
            batch.sequences[:count] = sequences[run]
            batch.wanted[:count] = wanted[run]
            batch.decode(self._context, count)
            found.append(self._best(int(wanted[run].sum())))
        return np.concatenate(found)

    def _step(self, tokens: NDArray[np.int32], positions: NDArray[np.int32]) -> NDArray[np.int32]:
        batch = self._batch
        assert batch is not None
        count = len(tokens)
        batch.tokens[:count] = tokens
        batch.positions[:count] = positions
        batch.sequences[:count] = np.arange(count)
        batch.wanted[:count] = 1
        batch.decode(self._context, count)
        return self._best(count)

    def _best(self, count: int) -> NDArray[np.int32]:
        """The likeliest token of each of the last batch's outputs."""
        if not count:
            return np.zeros(0, np.int32)
        # Waits for the results, too: a time taken after it is of a finished step.
        logits = self._llama.llama_get_logits(self._context)
        rows = np.ctypeslib.as_array(logits, shape=(count, self._vocab_size))
        best: NDArray[np.int32] = rows.argmax(axis=1).astype(np.int32)
        return best

    def _close_context(self) -> None:
        if self._context is not None:
            self._llama.llama_free(self._context)
        self._context = None


if __name__ == "__main__":
    serve_stdio(Worker())
