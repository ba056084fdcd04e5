"""Whether the parts of a profile out of a file agree with each other. No SQL, no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from allocator.base.document import SHOWN
from allocator.base.errors import InvalidInput
from allocator.plan.documents.curve import Point, Prediction, Samples
from allocator.plan.documents.profile import Around
from allocator.plan.files.profile_file import ProfileIn
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.precision import LATENTS, Latent, admissible_ranks
from allocator.plan.model.ranks import Ranks


def check_consistent(profile: ProfileIn) -> None:
    """Raises InvalidInput where parts of a profile, each well formed, contradict each other."""
    geometry, around, solution = profile.model.geometry, profile.around, profile.identity.solution
    compressible = CostModel(geometry).total(Metric("block_params"), Ranks.dense(geometry))
    if geometry.total_params < compressible:
        refuse(
            "profile.model.geometry.total_params",
            geometry.total_params,
            f"at least {compressible:,}, those of the blocks",
        )
    for field, value in (
        ("weights_sha256", profile.model.weights_sha256),
        ("calibration_sha256", profile.calibration.sha256),
        ("geometry", geometry.document),
        ("solver", profile.solver_version),
        ("around", around and [row.document for row in around.ranks]),
    ):
        if solution.get(field) != value:
            refuse(
                f"profile.identity.solution.{field}",
                repr(solution.get(field)),
                f"what the profile itself says, {brief(value)}",
            )
    expected = [(layer, component) for layer in range(geometry.layers) for component in COMPONENTS]
    if [(curve.layer, curve.component) for curve in profile.curves] != expected:
        count = f"{len(profile.curves)} curves"
        refuse("profile.curves", count, f"qk, ov and mlp of each of {geometry.layers} layers, layer by layer")
    bits, gradients, effort = profile.bits, profile.gradients, profile.identity.effort
    if profile.identity.bits != bits or list(bits) != sorted(set(bits), reverse=True):
        refuse("profile.bits", list(bits), "those of profile.identity, each once, descending")
    if bits and around is not None:
        refuse("profile.bits", list(bits), "none around a plan")
    predicted = gradients is not None
    if predicted and (bits or around is not None):
        refuse("profile.gradients", "an object", "none with bits or around a plan")
    if predicted != bool(effort.get("gradient_windows")):
        refuse(
            "profile.gradients",
            gradients and gradients.document,
            "an object exactly where the effort has gradient_windows",
        )
    if gradients is not None and gradients.labels != effort.get("labels"):
        refuse("profile.gradients.labels", gradients.labels, f"the effort's, {effort.get('labels')!r}")
    if gradients is not None and gradients.scales is not None:
        refuse("profile.gradients.scales", "some", "none: they follow from the curves")
    for index, curve in enumerate(profile.curves):
        field = f"profile.curves[{index}]"
        _consistent_predicted(curve, geometry, f"{field}.predicted", predicted)
        _consistent_curve(curve, geometry, field, gains=around is not None, predicted=predicted)
        _consistent_quantized(curve, geometry, f"{field}.quantized", bits)
        for form in LATENTS:
            if form in curve.model_fields_set:
                _consistent_latent(curve, geometry, form, f"{field}.{form}", predicted)
    if around is not None:
        _consistent_ranks(around, geometry)


def _ranks(points: Iterable[Point | Prediction]) -> list[int]:
    return [point.rank for point in points]


def _check_noted(points: Iterable[Point], field: str) -> None:
    """Early profiles did not say how many windows a point is the mean of; a file has to."""
    for spot, point in enumerate(points):
        if "windows" not in point.model_fields_set:
            refuse(f"{field}[{spot}].windows", "nothing", "a number of windows; 0: not noted")


def _consistent_predicted(curve: Samples, geometry: Geometry, field: str, predicted: bool) -> None:
    """The smallest candidate rank and others below the full one, where gradients say them; none elsewhere."""
    ranks, below = _ranks(curve.predicted), geometry.candidate_ranks(curve.component)[:-1]
    if not predicted or not below:
        if ranks:
            refuse(field, ranks, "none where no gradients predict losses")
        return
    if ranks != sorted(set(ranks)) or not set(below).issuperset(ranks) or ranks[:1] != below[:1]:
        refuse(
            field,
            ranks,
            f"ranks in ascending order, each once, below the full rank, the first of them {below[0]}",
        )


def _consistent_curve(
    curve: Samples, geometry: Geometry, field: str, *, gains: bool, predicted: bool
) -> None:
    candidates = geometry.candidate_ranks(curve.component)
    if list(curve.ranks) != candidates:
        refuse(
            f"{field}.ranks",
            list(curve.ranks),
            f"the geometry's {len(candidates)} candidate ranks, {brief(candidates)}",
        )
    if len(curve.analytic) != len(candidates):
        refuse(f"{field}.analytic", f"{len(curve.analytic)} losses", f"one per rank, {len(candidates)}")
    measured, below = _ranks(curve.measured), set(candidates[:-1])
    ascending = measured == sorted(set(measured)) and below.issuperset(measured)
    # Of what gradients predict only some layers are measured.
    needed = below and (measured or not predicted)
    if not ascending or (needed and measured[:1] != candidates[:1]):
        allowed = (
            f"ranks in ascending order, each once, below the full rank, the first of them {candidates[0]}"
        )
        refuse(f"{field}.measured", measured, allowed if below else "none: this component is fixed")
    _check_noted(curve.measured, f"{field}.measured")
    for spot, point in enumerate(curve.measured):
        if point.loss_nats < 0 and not gains:
            refuse(f"{field}.measured[{spot}].loss_nats", point.loss_nats, "a loss of at least 0")


def _consistent_quantized(curve: Samples, geometry: Geometry, field: str, bits: Iterable[int]) -> None:
    admissible = {str(b): admissible_ranks(geometry, curve.component, b) for b in bits}
    widths, expected = sorted(curve.quantized), sorted(b for b, ranks in admissible.items() if ranks)
    if widths != expected:
        refuse(field, widths, f"the profile's bits that the component can have, {expected}")
    for width in widths:
        ranks, points = admissible[width], curve.quantized[width].measured
        measured = _ranks(points)
        _check_noted(points, f"{field}.{width}.measured")
        ends = (measured[0], measured[-1]) == (ranks[0], ranks[-1])
        if measured != sorted(set(measured)) or not set(ranks).issuperset(measured) or not ends:
            refuse(
                f"{field}.{width}.measured",
                measured,
                f"ranks that admit these bits, ascending, each once, from {ranks[0]} to {ranks[-1]}",
            )
        if any(point.loss_nats < 0 for point in points):
            refuse(f"{field}.{width}.measured", "a negative loss", "losses of at least 0")


def _consistent_latent(curve: Samples, geometry: Geometry, form: Latent, field: str, predicted: bool) -> None:
    """A latent's samples: where gradients predict the component and it may be of this latent, at the ranks at which it may."""
    ranks = geometry.latent_ranks(form) if predicted and curve.component == LATENTS[form] else []
    samples = getattr(curve, form)
    listed = [] if samples is None else _ranks(samples.predicted)
    if not ranks or listed != ranks:
        refuse(field, listed, f"the ranks {brief(ranks)}" if ranks else "nothing here")
    measured = _ranks(samples.measured)
    if not measured:
        return
    field = f"{field}.measured"
    if curve.component not in geometry.fixed:
        refuse(field, measured, "none: heads can be cut, and are what is measured")
    if measured != sorted(set(measured)) or not set(ranks).issuperset(measured) or measured[0] != ranks[0]:
        allowed = f"ranks of {brief(ranks)} in ascending order, each once, the first of them {ranks[0]}"
        refuse(field, measured, allowed)
    _check_noted(samples.measured, field)
    if any(point.loss_nats < 0 for point in samples.measured):
        refuse(field, "a negative loss", "losses of at least 0")


def _consistent_ranks(around: Around, geometry: Geometry) -> None:
    field, rows = "profile.around.ranks", around.ranks
    if [row.layer for row in rows] != list(range(geometry.layers)):
        refuse(field, f"{len(rows)} rows", f"the layers 0 to {geometry.layers - 1} in order")
    for component in COMPONENTS:
        candidates = set(geometry.candidate_ranks(component))
        for layer, rank in enumerate(around.start.of(component)):
            if rank not in candidates:
                refuse(f"{field}[{layer}].{component}", rank, "a candidate rank of its component")


def brief(value: Any) -> str:
    text = str(value)
    # Out of a file that anybody made, into a terminal: no control characters.
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:SHOWN])
    return shown if len(text) <= SHOWN else shown + "..."


def refuse(field: str, found: object, allowed: str) -> NoReturn:
    said = brief(found)
    raise InvalidInput.of(field, said, allowed, f"found {said}; allowed is")
