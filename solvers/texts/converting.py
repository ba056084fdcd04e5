"""Make a tokenizer.json of older files: what is run, in a process of its own, by ``solvers.texts.tokenizer_file``.

Arguments: a folder with the tokenizer's files, and the file to write. It prints ``{}``, or the reason as ``{"error": ...}``.
"""

from __future__ import annotations

import json
import sys


def _main() -> None:
    from transformers import AutoTokenizer

    folder, target = sys.argv[1:]
    outcome = {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        tokenizer.backend_tokenizer.save(target)
    except BaseException as error:  # a panic of the library is no Exception
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        outcome = {"error": lines[0][:300]}
    print(json.dumps(outcome))


if __name__ == "__main__":
    _main()
