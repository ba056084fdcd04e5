"""Whether the parts of a profile out of a file agree with each other. No SQL, no torch."""

from __future__ import annotations

from typing import Any, NoReturn

from allocator.base.errors import InvalidInput
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.precision import LATENTS, Latent, admissible_ranks
from allocator.plan.model.ranks import Ranks

SHOWN = 100
"""Characters of what was found that an error repeats."""


def check_consistent(profile: dict[str, Any]) -> None:
    """Raises InvalidInput where parts of a profile, each well formed, contradict each other."""
    geometry = _geometry(profile["model"]["geometry"])
    solution = profile["identity"]["solution"]
    around = profile["around"]
    for field, said, known in (
        ("weights_sha256", solution.get("weights_sha256"), profile["model"]["weights_sha256"]),
        ("calibration_sha256", solution.get("calibration_sha256"), profile["calibration"]["sha256"]),
        ("geometry", solution.get("geometry"), geometry.document()),
        ("solver", solution.get("solver"), profile["solver_version"]),
        ("around", solution.get("around"), around and around["ranks"]),
    ):
        if said != known:
            refuse(
                f"profile.identity.solution.{field}",
                repr(said),
                f"what the profile itself says, {brief(known)}",
            )
    expected = [(layer, component) for layer in range(geometry.layers) for component in COMPONENTS]
    if [(curve["layer"], curve["component"]) for curve in profile["curves"]] != expected:
        found = f"{len(profile['curves'])} curves"
        refuse("profile.curves", found, f"qk, ov and mlp of each of {geometry.layers} layers, layer by layer")
    bits = profile.get("bits", [])
    if profile["identity"].get("bits", []) != bits or bits != sorted(set(bits), reverse=True):
        refuse("profile.bits", repr(bits), "those of profile.identity, each once, descending")
    if bits and around is not None:
        refuse("profile.bits", repr(bits), "none around a plan")
    gradients, effort = profile.get("gradients"), profile["identity"]["effort"]
    predicted = bool(gradients)
    if predicted and (bits or around is not None):
        refuse("profile.gradients", "an object", "none with bits or around a plan")
    if predicted != bool(effort.get("gradient_windows")):
        refuse(
            "profile.gradients", repr(gradients), "an object exactly where the effort has gradient_windows"
        )
    if gradients and gradients["labels"] != effort.get("labels"):
        refuse(
            "profile.gradients.labels", repr(gradients["labels"]), f"the effort's, {effort.get('labels')!r}"
        )
    for index, curve in enumerate(profile["curves"]):
        field = f"profile.curves[{index}]"
        _consistent_predicted(curve, geometry, f"{field}.predicted", predicted)
        _consistent_curve(curve, geometry, field, gains=around is not None, predicted=predicted)
        _consistent_quantized(curve, geometry, f"profile.curves[{index}].quantized", bits)
        for form in LATENTS:
            if form in curve:
                _consistent_latent(curve, geometry, form, f"{field}.{form}", predicted)
    if around is not None:
        _consistent_ranks(around["ranks"], geometry)


def _geometry(document: dict[str, Any]) -> Geometry:
    geometry, field = Geometry.from_document(document), "profile.model.geometry"
    costs = CostModel(geometry)
    compressible = costs.total(Metric("block_params"), Ranks.dense(geometry))
    g = geometry
    checks: list[tuple[str, object, bool, str]] = [
        ("kv_heads", g.kv_heads, g.heads % g.kv_heads == 0, f"a divisor of heads, {g.heads}"),
        ("windows", len(g.windows), len(g.windows) in (0, g.layers), f"none or {g.layers} of them"),
        ("fixed", g.fixed, len(set(g.fixed)) == len(g.fixed), "each component once"),
        ("active_experts", g.active_experts, g.active_experts <= g.experts, f"at most experts, {g.experts}"),
        (
            "total_params",
            g.total_params,
            g.total_params >= compressible,
            f"at least {compressible:,}, those of the blocks",
        ),
    ]
    for name, found, fine, allowed in checks:
        if not fine:
            refuse(f"{field}.{name}", str(found), allowed)
    return geometry


def _consistent_predicted(curve: dict[str, Any], geometry: Geometry, field: str, predicted: bool) -> None:
    """The smallest candidate rank and others below the full one, where gradients say them; none elsewhere."""
    ranks = [point["rank"] for point in curve.get("predicted", ())]
    below = geometry.candidate_ranks(curve["component"])[:-1]
    if not predicted or not below:
        if ranks:
            refuse(field, repr(ranks), "none where no gradients predict losses")
        return
    if ranks != sorted(set(ranks)) or not set(below).issuperset(ranks) or ranks[:1] != below[:1]:
        refuse(
            field,
            repr(ranks),
            f"ranks in ascending order, each once, below the full rank, the first of them {below[0]}",
        )


def _consistent_curve(
    curve: dict[str, Any], geometry: Geometry, field: str, *, gains: bool, predicted: bool
) -> None:
    candidates = geometry.candidate_ranks(curve["component"])
    if curve["ranks"] != candidates:
        refuse(
            f"{field}.ranks",
            repr(curve["ranks"]),
            f"the geometry's {len(candidates)} candidate ranks, {brief(candidates)}",
        )
    if len(curve["analytic"]) != len(candidates):
        refuse(f"{field}.analytic", f"{len(curve['analytic'])} losses", f"one per rank, {len(candidates)}")
    measured = [point["rank"] for point in curve["measured"]]
    below = set(candidates[:-1])
    ascending = measured == sorted(set(measured)) and below.issuperset(measured)
    # Of what gradients predict only some layers are measured.
    needed = below and (measured or not predicted)
    if not ascending or (needed and measured[:1] != candidates[:1]):
        allowed = (
            f"ranks in ascending order, each once, below the full rank, the first of them {candidates[0]}"
        )
        refuse(f"{field}.measured", repr(measured), allowed if below else "none: this component is fixed")
    for spot, point in enumerate(curve["measured"]):
        if point["loss_nats"] < 0 and not gains:
            refuse(f"{field}.measured[{spot}].loss_nats", str(point["loss_nats"]), "a loss of at least 0")


def _consistent_quantized(curve: dict[str, Any], geometry: Geometry, field: str, bits: list[int]) -> None:
    admissible = {str(b): admissible_ranks(geometry, curve["component"], b) for b in bits}
    found, expected = (
        sorted(curve.get("quantized", {})),
        sorted(b for b, ranks in admissible.items() if ranks),
    )
    if found != expected:
        refuse(field, repr(found), f"the profile's bits that the component can have, {expected}")
    for each in found:
        ranks, points = admissible[each], curve["quantized"][each]["measured"]
        measured = [point["rank"] for point in points]
        ends = (measured[0], measured[-1]) == (ranks[0], ranks[-1])
        if measured != sorted(set(measured)) or not set(ranks).issuperset(measured) or not ends:
            refuse(
                f"{field}.{each}.measured",
                repr(measured),
                f"ranks that admit these bits, ascending, each once, from {ranks[0]} to {ranks[-1]}",
            )
        if any(point["loss_nats"] < 0 for point in points):
            refuse(f"{field}.{each}.measured", "a negative loss", "losses of at least 0")


def _consistent_latent(
    curve: dict[str, Any], geometry: Geometry, form: Latent, field: str, predicted: bool
) -> None:
    """Of a component that gradients predict and that may be of this latent, at the ranks at which it may."""
    ranks = geometry.latent_ranks(form) if predicted and curve["component"] == LATENTS[form] else []
    found = [point["rank"] for point in (curve[form] or {}).get("predicted", ())]
    if not ranks or found != ranks:
        refuse(field, repr(found), f"the ranks {brief(ranks)}" if ranks else "nothing here")


def _consistent_ranks(rows: list[dict[str, int]], geometry: Geometry) -> None:
    field = "profile.around.ranks"
    if [row["layer"] for row in rows] != list(range(geometry.layers)):
        refuse(field, f"{len(rows)} rows", f"the layers 0 to {geometry.layers - 1} in order")
    for component in COMPONENTS:
        candidates = set(geometry.candidate_ranks(component))
        for row in rows:
            if row[component] not in candidates:
                refuse(
                    f"{field}[{row['layer']}].{component}",
                    str(row[component]),
                    "a candidate rank of its component",
                )


def brief(value: Any) -> str:
    text = str(value)
    # Out of a file that anybody made, into a terminal: no control characters.
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:SHOWN])
    return shown if len(text) <= SHOWN else shown + "..."


def refuse(field: str, found: str, allowed: str) -> NoReturn:
    found = brief(found)
    raise InvalidInput.of(field, found, allowed, f"found {found}; allowed is")
