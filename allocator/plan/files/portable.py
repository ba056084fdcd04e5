"""Profiles as files that travel: small, named by their content, and trusted in nothing when they come back. No SQL, no torch.

A file is gzip of canonical JSON (RFC 8785): {schema, profile, sha256}, where ``sha256`` is over the canonical JSON of the other
two. Losses at unmeasured ranks are not in it: ``build_curve`` of ``allocator.plan.curves.measured``, or ``build_predicted`` of
``allocator.plan.curves.predicted`` where gradients predicted them, makes the same ones again.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from typing import Any

import rfc8785
from pydantic import ValidationError
from pydantic_core import from_json

from allocator.base.digests import digest
from allocator.plan.curves.measured import build_curve, with_quantized
from allocator.plan.curves.predicted import build_predicted
from allocator.plan.documents.curve import Curve, Samples
from allocator.plan.documents.profile import Profile, Provenance
from allocator.plan.files.consistency import check_consistent, refuse
from allocator.plan.files.profile_file import FILE_SCHEMA, FileIn, ProfileIn
from allocator.plan.identity import Identity
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.precision import LATENTS

MAX_FILE_BYTES = 4 << 20
MAX_JSON_BYTES = 64 << 20
MAX_VALUES = 1_000_000
"""A 64 MiB text of nothing but brackets would take gigabytes as objects."""
MAX_DEPTH = 12
MAX_TEXT = 512
MEDIA_TYPE = "application/gzip"
_EXACT_INT = 2**53 - 1
_CHUNK = 1 << 20
_EXPORTED: dict[str, Any] = {
    **dict.fromkeys(("layer", "component", "ranks", "analytic", "measured", "predicted"), True),
    "quantized": {"8": {"measured"}, "4": {"measured"}},
    **{form: {"predicted", "measured"} for form in LATENTS},
}
"""Of a curve, what others are computed from."""
_LEFT_OUT: dict[str, Any] = {
    **dict.fromkeys(("provenance", "shared_by", "curves"), True),
    "gradients": {"scales"},
}


@dataclass(frozen=True)
class Imported:
    """A profile out of a file: its document under its original key, and the file's content hash."""

    profile: Profile
    sha256: str

    @property
    def own_key(self) -> str:
        """The key under which it is kept when nobody vouches for it: no job ever asks for this one."""
        return digest({"part": "imported", "sha256": self.sha256})

    def to_store(self, *, trust: bool, by: str, at: str) -> Profile:
        """The profile to store: under the original key where it is trusted, under ``own_key`` otherwise.

        Args:
            by, at: who imported it, and when (ISO 8601).

        Raises:
            InvalidInput: trusted, but its key is not that of what it says it was measured on.
        """
        original = self.profile.key
        if trust and Identity(self.profile.identity or {}).profile_key != original:
            refuse("profile.key", original, "the hash of profile.identity, where the file is to be trusted")
        return self.profile.replaced(
            key=original if trust else self.own_key,
            provenance=Provenance(original_key=original, sha256=self.sha256, imported_by=by, imported_at=at),
        )


def export_profile(profile: Profile) -> bytes:
    """The file of a profile; the same bytes every time, and again after an import elsewhere.

    Raises:
        InvalidInput: the profile lacks something that an import needs.
    """
    shape: dict[str, Any] = {"by_alias": True, "mode": "json", "exclude_unset": True}
    exported = profile.model_dump(exclude=_LEFT_OUT, **shape)
    if profile.provenance is not None:
        exported["key"] = profile.provenance.original_key
    exported["curves"] = [curve.model_dump(include=_EXPORTED, **shape) for curve in profile.curves]
    content: dict[str, Any] = {"schema": FILE_SCHEMA, "profile": exported}
    check_consistent(FileIn.read({**content, "sha256": "0" * 64}).profile)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as file:
        file.write(rfc8785.dumps({**content, "sha256": digest(content)}))
    return packed.getvalue()


def file_name(profile: Profile) -> str:
    """The file's name: the model's name in harmless letters, and the start of the key."""
    reference = profile.model.reference.split(":", 1)[-1]
    name = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in reference)
    return f"{name[:60].strip('-') or 'profile'}-{profile.key[:12]}.profile.json.gz"


def import_profile(data: bytes) -> Imported:
    """Read a file that anybody may have made.

    Raises:
        InvalidInput: naming the field, what was found and what is allowed.
    """
    sealed = parse_json(_unpack(data))
    file = FileIn.read(sealed)
    actual = digest({name: value for name, value in sealed.items() if name != "sha256"})
    if actual != file.sha256:
        refuse("sha256", file.sha256, f"the hash of the rest, {actual}: the file was changed or damaged")
    check_consistent(file.profile)
    return Imported(_built(file.profile), file.sha256)


def _built(read: ProfileIn) -> Profile:
    """The profile with its curves, and their scales where it was made from gradients."""
    facts = read.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"curves"})
    if read.gradients is None:
        return Profile.read(
            {**facts, "curves": [_curve(samples, read.model.geometry) for samples in read.curves]}
        )
    try:
        curves, scales = build_predicted(read.curves)
    except ValidationError:  # no curve has losses that are not finite
        refuse("profile.curves", "losses that are not finite", "predictions that measured points can scale")
    return Profile.read({**facts, "gradients": {**facts["gradients"], "scales": scales}, "curves": curves})


def _unpack(data: bytes) -> bytes:
    """Gunzip within both limits: what would go beyond is never inflated."""
    if len(data) > MAX_FILE_BYTES:
        refuse("file", f"{len(data):,} bytes", f"at most {MAX_FILE_BYTES:,} bytes")
    inflate = zlib.decompressobj(wbits=31)
    parts, size, rest = [], 0, data
    while not inflate.eof:
        try:
            part = inflate.decompress(rest, _CHUNK)
        except zlib.error as error:
            refuse("file", f"damaged data ({error})", "gzip, as rankalloc exports it")
        size += len(part)
        if size > MAX_JSON_BYTES:
            refuse("file", "more than that", f"at most {MAX_JSON_BYTES:,} bytes when unpacked")
        rest = inflate.unconsumed_tail
        if not part and not rest and not inflate.eof:
            refuse("file", "an end in the middle", "a whole gzip file")
        parts.append(part)
    if inflate.unused_data:
        refuse("file", f"{len(inflate.unused_data):,} bytes behind the end", "one gzip member")
    return b"".join(parts)


def parse_json(text: bytes) -> dict[str, Any]:
    """JSON with bounded size, depth and texts, and only such numbers as every reader takes for the same."""
    if text.count(b",") + text.count(b"[") + text.count(b"{") > MAX_VALUES:
        refuse("file", "more than that", f"at most {MAX_VALUES:,} values")
    try:
        document = from_json(text, allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        refuse("file", f"no JSON ({error})", "JSON in UTF-8 without NaN and Infinity")
    if not isinstance(document, dict):
        refuse("file", type(document).__name__, "a JSON object")
    _bounded(document, "", 0)
    return document


def _bounded(value: Any, field: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        refuse(field, "deeper nesting", f"at most {MAX_DEPTH} levels")
    if isinstance(value, str):
        if len(value) > MAX_TEXT or not value.isprintable():
            refuse(field, value, f"at most {MAX_TEXT} printable characters")
    elif isinstance(value, float):
        if not math.isfinite(value):
            refuse(field, str(value), "a finite number")
    elif isinstance(value, int):
        if abs(value) > _EXACT_INT:
            refuse(field, "a larger number", f"whole numbers up to {_EXACT_INT:,}")
    elif isinstance(value, dict):
        for name, item in value.items():
            _bounded(name, f"{field} (a name)".strip(), depth)
            _bounded(item, f"{field}.{name}".lstrip("."), depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _bounded(item, f"{field}[{index}]", depth + 1)


def _curve(samples: Samples, geometry: Geometry) -> Curve:
    place = (samples.layer, samples.component, samples.ranks, samples.analytic)
    curve = build_curve(*place, samples.measured)
    return with_quantized(
        curve, geometry, {int(b): quantized.measured for b, quantized in samples.quantized.items()}
    )


__all__ = [
    "MAX_FILE_BYTES",
    "MEDIA_TYPE",
    "Imported",
    "export_profile",
    "file_name",
    "import_profile",
    "parse_json",
]
