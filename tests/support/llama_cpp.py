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
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any
from urllib.request import Request, urlopen

CONTEXT = 256
"""Least that llama.cpp allocates, and what it rounds up to."""


class LlamaCpp:
    """A GGUF file, loaded; ``with LlamaCpp(file) as served``."""

    def __init__(self, file: Path, *, context: int = CONTEXT) -> None:
        self._log = TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the process
        self._child = subprocess.Popen(
            [sys.executable, __file__, str(file), str(context)],
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
        self._child.communicate()
        if self._log.closed:
            return ""
        self._log.seek(0)
        with self._log as log:
            return log.read()

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """The answer of llama.cpp's server at ``path``."""
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


def _main(file: str, context: str) -> None:
    import xllamacpp

    answers = os.dup(1)
    os.dup2(2, 1)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = int(context), 1, False
    parameters.port, parameters.verbosity = 0, 5
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)
    with os.fdopen(answers, "w") as out:
        for line in sys.stdin:
            path, body = json.loads(line)
            request = Request(
                server.listening_address + path,
                json.dumps(body).encode(),
                {"content-type": "application/json"},
            )
            with urlopen(request) as answer:
                out.write(answer.read().decode().replace("\n", " ") + "\n")
            out.flush()


if __name__ == "__main__":
    _main(*sys.argv[1:])
