"""Stock llama.cpp in a process of its own, as the wheel ``xllamacpp`` brings it: an assertion of its graphs ends a process.

Run as a program it serves one file: the path is the argument, requests are lines of JSON on standard input, answers on
standard output; what llama.cpp logs goes to standard error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any
from urllib.request import Request, urlopen

CONTEXT = 256
"""Least that llama.cpp allocates, and what it rounds up to."""

_GOING_DOWN_S = 30


class LlamaCpp:
    """A GGUF file, loaded; ``with LlamaCpp(file) as served``."""

    def __init__(self, file: Path, *, context: int = CONTEXT, sequences: int = 1) -> None:
        """``context``: tokens of each of the ``sequences`` that it has caches for."""
        self.sequences = sequences
        self._log = TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the process
        self._child = subprocess.Popen(
            [sys.executable, __file__, str(file), str(context), str(sequences)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> str:
        """End it; what it logged."""
        try:
            self._child.communicate(timeout=_GOING_DOWN_S)
        except subprocess.TimeoutExpired:
            # Its server at times never ends its own threads; what it had to say is said.
            self._child.kill()
            self._child.communicate()
        if self._log.closed:
            return ""
        self._log.seek(0)
        with self._log as log:
            return log.read()

    def processor_seconds(self) -> float:
        """What the process has used so far, in steps of a hundredth: beside other work it holds where wall times do not."""
        fields = Path(f"/proc/{self._child.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ask(self, path: str, body: dict[str, Any] | list[dict[str, Any]]) -> Any:
        """The answer of llama.cpp's server at ``path``; of many bodies, which are sent at once, a list of answers."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps([path, body]) + "\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        if not answer:
            raise RuntimeError(f"llama.cpp ended: {self.close()[-2000:]}")
        return json.loads(answer)

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of a text; ``special``: with what the tokenizer puts around it."""
        answer: list[int] = self.ask("/tokenize", {"content": text, "add_special": special})["tokens"]
        return answer

    def continued(self, prompt: list[int] | str, count: int, *, without: Iterable[int] = ()) -> list[int]:
        """The greedy continuation.

        Args:
            without: tokens that are never taken: those of whom the server, which answers in JSON, cannot tell.
        """
        body = {"prompt": prompt, "n_predict": count, "temperature": -1.0, "ignore_eos": True}
        bias = [[token, False] for token in without]
        answer = self.ask("/completion", body | {"return_tokens": True, "logit_bias": bias})
        tokens: list[int] = answer["tokens"]
        return tokens

    def log_probabilities(self, prompt: list[int], vocab: int, *, plain: int) -> list[float]:
        """Of every token that may follow.

        Args:
            plain: a token whose text is whole UTF-8: the server tells nothing of steps that end within a character.
        """
        body = {"prompt": prompt, "n_predict": 1, "n_probs": vocab, "temperature": -1.0}
        answer = self.ask("/completion", body | {"cache_prompt": False, "logit_bias": [[plain, 1e4]]})
        (row,) = answer["completion_probabilities"]
        found = {each["id"]: each["logprob"] for each in row["top_logprobs"]}
        return [found[token] for token in range(vocab)]

    def scores(self, windows: list[list[int]], vocab: int) -> list[list[float]]:
        """The log-probability of every token but the first, each forced in turn behind those before it. As many windows as
        there are sequences go side by side: a pass over the weights gives each a token.
        """
        found: list[list[float]] = [[] for _ in windows]
        plain = self.tokens("a", special=False)[0]
        asked = {"n_predict": 1, "temperature": -1.0, "ignore_eos": True, "cache_prompt": True}
        for start in range(0, len(windows), self.sequences):
            together = windows[start : start + self.sequences]
            for end in range(1, max(map(len, together))):
                slots = [slot for slot, ids in enumerate(together) if end < len(ids)]
                bodies = [
                    asked | {"prompt": together[slot][:end], "id_slot": slot, "n_probs": 1} for slot in slots
                ]
                forced = [{"logit_bias": [[together[slot][end], 1e4]]} for slot in slots]
                answers = self.ask("/completion", [a | b for a, b in zip(bodies, forced, strict=True)])
                for slot, body, answer in zip(slots, bodies, answers, strict=True):
                    token, told = together[slot][end], answer.get("completion_probabilities")
                    if not told:  # it ends within a character: asked again for all that may follow
                        every = {"logit_bias": [[plain, 1e4]], "n_probs": vocab}
                        (row,) = self.ask("/completion", body | every)["completion_probabilities"]
                        told = [each for each in row["top_logprobs"] if each["id"] == token]
                    assert told[0]["id"] == token
                    found[start + slot].append(float(told[0]["logprob"]))
        return found


def _main(file: str, context: str, sequences: str) -> None:
    import xllamacpp

    answers = os.dup(1)
    os.dup2(2, 1)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.n_ctx, parameters.n_parallel = int(context) * int(sequences), int(sequences)
    parameters.warmup, parameters.kv_unified = False, False
    parameters.port, parameters.verbosity = 0, 5
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)

    def answered(path: str, body: Any) -> str:
        request = Request(
            server.listening_address + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urlopen(request) as answer:
            return str(answer.read().decode().replace("\n", " "))

    with os.fdopen(answers, "w") as out, ThreadPoolExecutor(int(sequences)) as pool:
        for line in sys.stdin:
            path, body = json.loads(line)
            if isinstance(body, list):
                out.write(f"[{','.join(pool.map(partial(answered, path), body))}]\n")
            else:
                out.write(answered(path, body) + "\n")
            out.flush()


if __name__ == "__main__":
    _main(*sys.argv[1:])
