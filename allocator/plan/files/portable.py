"""Profiles as files that travel: small, named by their content, and trusted in nothing when they come back. No SQL, no torch.

A file is gzip of canonical JSON (RFC 8785): {schema, profile, sha256}, where ``sha256`` is over the canonical JSON of the other
two. Losses at unmeasured ranks are not in it: ``build_curve`` of ``allocator.plan.model.curves``, or ``build_predicted`` of
``allocator.plan.model.predicted`` where gradients predicted them, makes the same ones again.
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
from allocator.base.errors import FieldError, InvalidInput
from allocator.plan.effort import Identity
from allocator.plan.files.consistency import SHOWN, check_consistent, refuse
from allocator.plan.files.profile_file import FILE_SCHEMA, FileIn
from allocator.plan.model.curves import Measurement, Prediction, build_curve, with_quantized
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.precision import LATENTS
from allocator.plan.model.predicted import Part, build_predicted

MAX_FILE_BYTES = 4 << 20
MAX_JSON_BYTES = 64 << 20
MAX_VALUES = 1_000_000
"""A 64 MiB text of nothing but brackets would take gigabytes as objects."""
MAX_DEPTH = 12
MAX_TEXT = 512
MEDIA_TYPE = "application/gzip"
_EXACT_INT = 2**53 - 1
_CHUNK = 1 << 20
_KEPT = ("layer", "component", "ranks", "analytic", "measured")
_MOST_FIELDS = 10


@dataclass(frozen=True)
class Imported:
    """A profile out of a file: its document under its original key, and the file's content hash."""

    profile: dict[str, Any]
    sha256: str

    @property
    def own_key(self) -> str:
        """The key under which it is kept when nobody vouches for it: no job ever asks for this one."""
        return digest({"part": "imported", "sha256": self.sha256})

    def document(self, *, trust: bool, by: str, at: str) -> dict[str, Any]:
        """What to store: under the original key where it is trusted, under ``own_key`` otherwise.

        Args:
            by, at: who imported it, and when (ISO 8601).

        Raises:
            InvalidInput: trusted, but its key is not that of what it says it was measured on.
        """
        original = self.profile["key"]
        if trust and Identity(self.profile["identity"]).profile_key != original:
            refuse("profile.key", original, "the hash of profile.identity, where the file is to be trusted")
        provenance = {
            "original_key": original,
            "sha256": self.sha256,
            "imported_by": by,
            "imported_at": at,
        }
        return {**self.profile, "key": original if trust else self.own_key, "provenance": provenance}


def export_profile(profile: dict[str, Any]) -> bytes:
    """The file of a profile; the same bytes every time, and again after an import elsewhere.

    Raises:
        InvalidInput: the profile lacks something that an import needs.
    """
    left_out = ("provenance", "shared_by", "curves")
    kept = {name: value for name, value in profile.items() if name not in left_out}
    if "provenance" in profile:
        kept["key"] = profile["provenance"]["original_key"]
    kept["curves"] = [
        {
            **{name: curve[name] for name in _KEPT},
            **_quantized_points(curve),
            **({"predicted": curve["predicted"]} if "predicted" in curve else {}),
            **{form: {"predicted": curve[form]["predicted"]} for form in LATENTS if form in curve},
        }
        for curve in profile["curves"]
    ]
    if kept.get("gradients"):
        kept["gradients"] = {name: kept["gradients"][name] for name in ("windows", "labels")}
    # Through the types first: a database may have turned a large float into an integer.
    unsealed = {"schema": FILE_SCHEMA, "profile": kept, "sha256": "0" * 64}
    content: dict[str, Any] = {"schema": FILE_SCHEMA, "profile": _validated(unsealed).content()}
    check_consistent(content["profile"])
    sealed: dict[str, Any] = {**content, "sha256": digest(content)}
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as file:
        file.write(rfc8785.dumps(sealed))
    return packed.getvalue()


def _quantized_points(curve: dict[str, Any]) -> dict[str, Any]:
    """What was measured of a curve in fewer bits; nothing where nothing was."""
    if "quantized" not in curve:
        return {}
    fewer = curve["quantized"].items()
    return {"quantized": {bits: {"measured": each["measured"]} for bits, each in fewer}}


def file_name(profile: dict[str, Any]) -> str:
    """What to call the file: the model's name in harmless letters, and the start of the key."""
    reference = profile["model"]["reference"].split(":", 1)[-1]
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in reference)
    return f"{kept[:60].strip('-') or 'profile'}-{profile['key'][:12]}.profile.json.gz"


def import_profile(data: bytes) -> Imported:
    """Read a file that anybody may have made.

    Raises:
        InvalidInput: naming the field, what was found and what is allowed.
    """
    file = _checked(parse_json(_unpack(data)))
    content = file.content()
    geometry = Geometry.from_document(content["model"]["geometry"])
    if content.get("gradients"):
        return Imported({**content, **_from_gradients(content)}, file.sha256)
    profile = {**content, "curves": [_curve(curve, geometry) for curve in content["curves"]]}
    return Imported(profile, file.sha256)


def _from_gradients(content: dict[str, Any]) -> dict[str, Any]:
    """Curves and scales of a profile that was made from gradients."""
    curves, scales = build_predicted(
        [
            Part(
                curve["layer"],
                curve["component"],
                tuple(curve["ranks"]),
                tuple(curve["analytic"]),
                tuple(Prediction(**point) for point in curve.get("predicted", ())),
                tuple(Measurement(**point) for point in curve["measured"]),
                {
                    form: tuple(Prediction(**point) for point in curve[form]["predicted"])
                    for form in LATENTS
                    if curve.get(form)
                },
            )
            for curve in content["curves"]
        ]
    )
    found = {kind: scale.document() for kind, scale in scales.items()}
    if not all(math.isfinite(loss) for curve in curves for loss in curve.loss_nats):
        refuse("profile.curves", "losses that are not finite", "predictions that measured points can scale")
    return {
        "curves": [curve.document() for curve in curves],
        "gradients": {**content["gradients"], "scales": found},
    }


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
        found = from_json(text, allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        refuse("file", f"no JSON ({error})", "JSON in UTF-8 without NaN and Infinity")
    if not isinstance(found, dict):
        refuse("file", type(found).__name__, "a JSON object")
    _bounded(found, "", 0)
    return found


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
        for name, each in value.items():
            _bounded(name, f"{field} (a name)".strip(), depth)
            _bounded(each, f"{field}.{name}".lstrip("."), depth + 1)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _bounded(each, f"{field}[{index}]", depth + 1)


def _checked(sealed: dict[str, Any]) -> FileIn:
    """Types, ranges, hash, and whether the parts agree with each other."""
    file = _validated(sealed)
    actual = digest({name: value for name, value in sealed.items() if name != "sha256"})
    if actual != file.sha256:
        refuse("sha256", file.sha256, f"the hash of the rest, {actual}: the file was changed or damaged")
    check_consistent(file.content())
    return file


def _validated(sealed: dict[str, Any]) -> FileIn:
    try:
        return FileIn.model_validate(sealed)
    except ValidationError as error:
        fields = []
        for found in error.errors(include_url=False, include_context=False)[:_MOST_FIELDS]:
            place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in found["loc"])
            fields.append(FieldError(place.lstrip("."), repr(found["input"])[:SHOWN], found["msg"]))
        first = fields[0]
        raise InvalidInput(f"{first.field}: found {first.found}; {first.allowed}", fields=fields) from None


def _curve(document: dict[str, Any], geometry: Geometry) -> dict[str, Any]:
    points = [Measurement(**point) for point in document["measured"]]
    place = (document["layer"], document["component"], document["ranks"], document["analytic"])
    curve = build_curve(*place, points)
    fewer = {
        int(bits): [Measurement(**point) for point in each["measured"]]
        for bits, each in document.get("quantized", {}).items()
    }
    return with_quantized(curve, geometry, fewer).document()


__all__ = [
    "MAX_FILE_BYTES",
    "MEDIA_TYPE",
    "Imported",
    "export_profile",
    "file_name",
    "import_profile",
    "parse_json",
]
