"""Profile files: small, the same curves again, and nothing but a refusal for whatever else is in them."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allocator.base.digests import digest
from allocator.base.errors import InvalidInput
from allocator.plan.documents.profile import Profile
from allocator.plan.files import portable
from allocator.plan.files.portable import Imported, export_profile, import_profile
from allocator.plan.planning import plan_from_profile
from allocator.plan.queries import sensitivity
from tests.support.profiles import LARGE, SMALL, gradient_profile, measured_profile, quantized_profile

AROUND = [{"layer": 0, "qk": 8, "ov": 12, "mlp": 64}, {"layer": 1, "qk": 4, "ov": 16, "mlp": 128}]
PROFILE = measured_profile()
FILE = export_profile(PROFILE)


def opened(data: bytes = FILE) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(data))
    return found


def sealed(document: dict[str, Any]) -> bytes:
    """The document as a file with a right hash."""
    content = {name: value for name, value in document.items() if name != "sha256"}
    return gzip.compress(rfc8785.dumps({**content, "sha256": digest(content)}))


def sealed_anyhow(document: dict[str, Any]) -> bytes:
    """``sealed``, or without a hash what has no canonical form and hence none."""
    try:
        return sealed(document)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        return gzip.compress(json.dumps(document).encode())


def bits(profile: Profile) -> str:
    """Every digit of every curve, and which numbers are floats."""
    return json.dumps(profile.document["curves"], sort_keys=True)


@pytest.mark.parametrize(
    "profile",
    [
        PROFILE,
        measured_profile(around=AROUND),
        measured_profile(SMALL.replaced(fixed=("qk",), windows=(0, 64)), effort="fast"),
        quantized_profile(),
        quantized_profile(SMALL.replaced(fixed=("qk",), hidden=60)),
        gradient_profile(),
        gradient_profile(SMALL.replaced(layers=12, fixed=("qk",), total_params=900_000)),
    ],
    ids=[
        *("dense", "around a plan", "fixed and windows", "quantized", "quantized to eight alone"),
        *("gradients", "gradients, some layers measured"),
    ],
)
def test_an_import_is_the_same_profile_to_the_last_bit(profile: Profile) -> None:
    found = import_profile(export_profile(profile))
    assert found.profile == profile
    assert bits(found.profile) == bits(profile)
    assert found.sha256 == opened(export_profile(profile))["sha256"]


def test_an_80_layer_profile_is_below_a_megabyte_and_comes_back_whole() -> None:
    profile = measured_profile(LARGE, effort="thorough")
    assert [len(curve.ranks) for curve in profile.curves[:3]] == [128, 128, 64]
    assert all(len(curve.measured) == 13 for curve in profile.curves)
    data = export_profile(profile)
    assert len(data) < 1_000_000
    assert bits(import_profile(data).profile) == bits(profile)


def test_the_bytes_depend_on_the_profile_alone_and_survive_a_journey() -> None:
    shuffled = dict(reversed(PROFILE.document.items()))
    assert export_profile(Profile.stored(shuffled)) == FILE
    stored = import_profile(FILE).to_store(trust=False, by="ada", at="2026-01-31T12:00:00.000Z")
    assert export_profile(stored) == FILE, "a file handed on is the same file"


def test_predictions_that_cannot_be_are_refused() -> None:
    """Each a field of a file from gradients that is otherwise sound."""
    good = opened(export_profile(gradient_profile()))

    def refused(change: Callable[[dict[str, Any]], Any], said: str) -> None:
        document = copy.deepcopy(good)
        change(document["profile"])
        with pytest.raises(InvalidInput, match=said):
            import_profile(sealed(document))

    def first(profile: Profile) -> dict[str, Any]:
        return profile["curves"][0]

    refused(lambda p: first(p)["predicted"].reverse(), r"curves\[0\].predicted: .*ascending")
    refused(lambda p: first(p)["predicted"].pop(0), r"curves\[0\].predicted: .*first of them 2")
    refused(lambda p: first(p).update(predicted=[]), r"curves\[0\].predicted")
    refused(lambda p: p.pop("gradients"), "profile.gradients: .*exactly where")
    refused(lambda p: first(p)["predicted"][0].update(loss_nats=-1.0), "predicted")
    refused(lambda p: p["gradients"].update(labels=-1), "labels")
    refused(lambda p: p["gradients"].update(labels=9), "gradients.labels: .*effort's, 4")
    refused(lambda p: p["identity"]["effort"].pop("gradient_windows"), "gradients: .*exactly where")


def test_predictions_of_next_to_nothing_give_finite_curves() -> None:
    """A hostile ratio of a measured loss to a predicted one moves a curve by a bounded factor."""
    document = opened(export_profile(gradient_profile()))
    for curve in document["profile"]["curves"]:
        for point in curve.get("predicted", []):
            point["same_windows_nats"] = 1e-300
        for point in curve["measured"]:
            point["loss_nats"] = 1e6
    found = import_profile(sealed(document))
    assert all(loss < 1e6 for curve in found.profile.curves for loss in curve.loss_nats)


def test_what_is_computed_is_not_in_the_file() -> None:
    curve = opened()["profile"]["curves"][0]
    assert set(curve) == {"layer", "component", "ranks", "analytic", "measured"}


def test_an_import_never_takes_the_place_of_a_measured_profile_unless_it_is_trusted() -> None:
    found = import_profile(FILE)
    own = found.to_store(trust=False, by="ada", at="now")
    assert own.key == digest({"part": "imported", "sha256": found.sha256}) != PROFILE.key
    assert own.provenance is not None
    assert own.provenance.document == {
        "original_key": PROFILE.key,
        "sha256": found.sha256,
        "imported_by": "ada",
        "imported_at": "now",
    }
    trusted = found.to_store(trust=True, by="ada", at="now")
    assert trusted.key == PROFILE.key
    assert {**trusted.document, "provenance": None} == {**PROFILE.document, "provenance": None}


def test_a_key_that_is_not_its_identity_s_is_not_trusted() -> None:
    document = opened()
    document["profile"]["identity"]["solution"]["fit_windows"] = 7
    found = import_profile(sealed(document))
    found.to_store(trust=False, by="ada", at="now")
    with pytest.raises(InvalidInput, match="identity"):
        found.to_store(trust=True, by="ada", at="now")


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *way, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
        for part in way:
            document = document[part]  # type: ignore[index]
        document[last] = value  # type: ignore[index]

    return change


CURVE = "profile.curves.0"
WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "schema": (put("schema", "rankalloc.profile-file/2"), "schema"),
    "unknown field": (put("profile.more", 1), "profile.more"),
    "unknown field of a curve": (put(f"{CURVE}.loss_nats", []), "profile.curves[0].loss_nats"),
    "text for a number": (put(f"{CURVE}.layer", "0"), "profile.curves[0].layer"),
    "flag for a number": (put(f"{CURVE}.layer", False), "profile.curves[0].layer"),
    "negative loss": (
        put(f"{CURVE}.measured.1.loss_nats", -0.1),
        "profile.curves[0].measured[1].loss_nats",
    ),
    "absurd loss": (put(f"{CURVE}.measured.1.loss_nats", 1e7), "profile.curves[0].measured[1].loss_nats"),
    "negative energy": (put(f"{CURVE}.analytic.0", -1.0), "profile.curves[0].analytic[0]"),
    "other ranks": (put(f"{CURVE}.ranks.0", 3), "profile.curves[0].ranks"),
    "fewer losses": (put(f"{CURVE}.analytic", [1.0]), "profile.curves[0].analytic"),
    "no measurement": (put(f"{CURVE}.measured", []), "profile.curves[0].measured"),
    "rank out of order": (put(f"{CURVE}.measured.1.rank", 16), "profile.curves[0].measured"),
    "rank that is no candidate": (put(f"{CURVE}.measured.1.rank", 5), "profile.curves[0].measured"),
    "missing curve": (lambda document: document["profile"]["curves"].pop(), "profile.curves"),
    "layers": (put("profile.model.geometry.layers", 1), "profile.identity.solution.geometry"),
    "kv heads": (put("profile.model.geometry.kv_heads", 3), "profile.model.geometry.kv_heads"),
    "parameters": (put("profile.model.geometry.total_params", 5), "profile.model.geometry.total_params"),
    "windows": (put("profile.model.geometry.windows", [1]), "profile.model.geometry.windows"),
    "fixed twice": (put("profile.model.geometry.fixed", ["qk", "qk"]), "profile.model.geometry.fixed"),
    "experts": (put("profile.model.geometry.active_experts", 2), "profile.model.geometry.active_experts"),
    "weights": (put("profile.model.weights_sha256", "f" * 64), "profile.identity.solution.weights_sha256"),
    "text": (put("profile.calibration.sha256", "f" * 64), "profile.identity.solution.calibration_sha256"),
    "key": (put("profile.key", "../../etc"), "profile.key"),
    "solver": (put("profile.solver", "a" * 65), "profile.solver"),
    "control characters": (put("profile.model.reference", "a\0b"), "profile.model.reference"),
    "long text": (put("profile.identity.solution.x", "x" * 600), "profile.identity.solution.x"),
    "escape in a name": (put("profile.identity.solution.\x1b[2J", 1), "profile.identity.solution (a name)"),
    "huge integer": (put("profile.identity.solution.x", 2**53), "profile.identity.solution.x"),
    "around another plan": (
        put("profile.around", {"plan": "e", "ranks": AROUND, "loss_nats": 0.1, "stderr_nats": 0.0}),
        "profile.identity.solution.around",
    ),
}


@pytest.mark.parametrize(("change", "field"), WRONG.values(), ids=WRONG.keys())
def test_a_sealed_lie_is_refused_by_name(change: Callable[[dict[str, Any]], None], field: str) -> None:
    document = opened()
    change(document)
    data = sealed_anyhow(document)
    with pytest.raises(InvalidInput) as caught:
        import_profile(data)
    (first, *_) = caught.value.fields
    assert first.field == field
    assert first.found
    assert first.allowed


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda p: p.update(bits=[8]), "profile.bits"),
        (lambda p: p.update(bits=[4, 8]), "profile.bits"),
        (lambda p: p.update(bits=[8, 8]), "profile.bits"),
        (lambda p: p.update(bits=[3]), "profile.bits[0]"),
        (lambda p: p["curves"][1].pop("quantized"), "profile.curves[1].quantized"),
        (lambda p: p["curves"][1]["quantized"].pop("4"), "profile.curves[1].quantized"),
        (lambda p: _points(p).pop(0), "profile.curves[2].quantized.4.measured"),
        (lambda p: _points(p).pop(), "profile.curves[2].quantized.4.measured"),
        (lambda p: _points(p)[1].update(rank=33), "profile.curves[2].quantized.4.measured"),
        (lambda p: _points(p)[1].update(loss_nats=-0.1), "profile.curves[2].quantized.4.measured"),
        (
            lambda p: p["curves"][2]["quantized"]["4"].update(ranks=[32]),
            "profile.curves[2].quantized.4.ranks",
        ),
    ],
)
def test_quantized_curves_must_be_those_of_the_geometry(
    change: Callable[[dict[str, Any]], None], field: str
) -> None:
    document = opened(export_profile(quantized_profile()))
    change(document["profile"])
    with pytest.raises(InvalidInput) as caught:
        import_profile(sealed(document))
    assert caught.value.fields[0].field == field


def _points(profile: Profile) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = profile["curves"][2]["quantized"]["4"]["measured"]
    return found


def test_ranks_of_the_plan_around_must_be_candidates() -> None:
    document = opened(export_profile(measured_profile(around=AROUND)))
    for place in (document["profile"]["around"], document["profile"]["identity"]["solution"]):
        ranks = place["ranks"] if "ranks" in place else place["around"]
        ranks[1]["mlp"] = 127
    with pytest.raises(InvalidInput, match=r"around\.ranks\[1\]\.mlp"):
        import_profile(sealed(document))


def test_changes_from_a_plan_may_be_gains() -> None:
    document = opened(export_profile(measured_profile(around=AROUND)))
    document["profile"]["curves"][0]["measured"][-1]["loss_nats"] = -0.001
    curve = import_profile(sealed(document)).profile.curves[0]
    assert curve.repairs[-1].used_nats == 0.0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "middle"),
        (b"no gzip", "gzip"),
        (FILE[:-5], "middle"),
        (FILE + b"x", "behind"),
        (FILE + FILE, "behind"),
        (b"x" * (portable.MAX_FILE_BYTES + 1), "at most"),
        (gzip.compress(b"[]"), "object"),
        (gzip.compress(b"{"), "JSON"),
        (gzip.compress(b'{"schema": NaN}'), "NaN"),
        (gzip.compress(b'{"schema": 1e999}'), "finite"),
        (gzip.compress(b'{"schema": -Infinity}'), "NaN"),
        (gzip.compress(b'{"schema": "\xff"}'), "UTF-8"),
        (gzip.compress(b'{"schema": "\\ud800"}'), "UTF-8"),
        (gzip.compress(b'{"x": ' + b"9" * 6000 + b"}"), "whole numbers|JSON"),
        (gzip.compress(b'{"x": ' + b"[" * 20 + b"]" * 20 + b"}"), "levels"),
        (gzip.compress(b'{"x": ' + b"[" * 900_000 + b"]" * 900_000 + b"}"), "JSON"),
        (gzip.compress(b'{"x": [' + b"[]," * 1_000_000 + b"[]]}"), "values"),
        (gzip.compress(b" " * (portable.MAX_JSON_BYTES + 1)), "unpacked"),
    ],
    ids=range(18),
)
def test_hostile_files_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        import_profile(data)


def test_a_bomb_is_not_inflated_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "MAX_JSON_BYTES", 10_000_000)
    bomb = gzip.compress(b" " * 900_000_000, compresslevel=1)
    assert len(bomb) < portable.MAX_FILE_BYTES
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(InvalidInput, match="unpacked"):
        import_profile(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_a_changed_value_without_a_new_hash_is_found() -> None:
    document = opened()
    document["profile"]["curves"][0]["measured"][0]["loss_nats"] *= 1.0000000000001
    with pytest.raises(InvalidInput, match="sha256"):
        import_profile(gzip.compress(json.dumps(document).encode()))


def test_a_profile_that_lacks_its_identity_is_not_exported() -> None:
    with pytest.raises(InvalidInput, match=r"profile\.identity"):
        export_profile(Profile.stored({n: value for n, value in PROFILE.document.items() if n != "identity"}))


fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def imported_or_refused(data: bytes) -> Imported | None:
    """Any other exception is a failure."""
    try:
        return import_profile(data)
    except InvalidInput as error:
        return None if error.fields else pytest.fail(f"{error.detail} names no field")


@fuzz
@given(data=st.data())
def test_flipped_bytes_give_the_profile_or_a_refusal(data: st.DataObject) -> None:
    unpacked = data.draw(st.booleans())
    content = bytearray(gzip.decompress(FILE) if unpacked else FILE)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.sampled_from([len(content), len(content) // 2, len(content) - 1]))]
    found = imported_or_refused(gzip.compress(bytes(content)) if unpacked else bytes(content))
    if found is not None:
        assert bits(found.profile) == bits(PROFILE)


@fuzz
@given(data=st.data())
def test_changed_values_give_a_usable_profile_or_a_refusal(data: st.DataObject) -> None:
    """With a right hash: whatever gets through can be planned and asked like any other profile."""
    document = opened()
    spot: Any = document
    for _ in range(data.draw(st.integers(1, 6))):
        keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
        last = data.draw(st.sampled_from(keys))
        if not isinstance(spot[last], dict | list) or not spot[last]:
            break
        parent, spot = spot, spot[last]
    else:
        spot = parent
    spot[last] = data.draw(odd)
    found = imported_or_refused(sealed_anyhow(document))
    if found is not None:
        stored = found.to_store(trust=False, by="ada", at="now")
        assert import_profile(export_profile(stored)).sha256 == found.sha256
        assert sensitivity(stored).most_sensitive
        assert plan_from_profile(stored, ["block_params=0.8"]).ranks
