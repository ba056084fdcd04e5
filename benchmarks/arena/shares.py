"""Rules that turn a score into shares of the budget, with no look at what a rank is worth.

Each returns ranks for every component. A paper's one target (a ratio kept or removed) is raised to the largest at which the
floored ranks meet every budget, so that each rule spends what it may; with two budgets that is the tighter one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from allocator.plan import baselines
from allocator.plan.ask.constraints import Place
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.ranks import Ranks
from benchmarks.arena.problem import OutOfReach, Problem, Shares

BETAS = (0.0, 0.2, 0.25, 0.3, 0.35)
TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, math.inf)
LARGEST_SPARSITY = 0.95
OUTLIER_MULTIPLES = (3.0, 5.0, 7.0, 10.0)
OUTLIER_WINDOWS = (0.02, 0.05, 0.08, 0.15)
TUNING_WINDOWS = 16
"""Measure windows on which a rule with constants to tune, tuned by its authors on perplexity, takes its best."""


def uniform(problem: Problem) -> Ranks:
    """A3 (arXiv 2505.12942v4): the same ratio for every component of every layer, the largest that fits."""
    ranks = baselines.uniform(problem.costs, list(problem.budgets))
    assert ranks is not None, "budgets that no ranks meet are refused before"
    return ranks


def palu(problem: Problem) -> Ranks:
    """Palu (arXiv 2407.21118, section 3.3; ``rank_search.py``): r_g = R F_g / Σ F, F_g the mean of sqrt(E[gradient²]).

    Palu shares the ranks of head groups of K and V, all of one size: a share of ranks is a share of ratios there. Here every
    component has a ratio in proportion to the mean over its own weights (QK: W_q, W_k; OV: W_v, W_o; MLP: all), at most
    1. As in the authors' code ranks are floored and the remainder is handed out in rounds of one step; not rounded
    to 32.
    """
    fisher = problem.required_signals.fisher

    def at(scale: float) -> Shares:
        return {place: min(1.0, scale * fisher[place]) for place in problem.places}

    least = min(value for value in fisher.values() if value > 0)
    picks = problem.floored(problem.largest(at, 0.0, 1 / least))
    while (next_picks := problem.filled(picks, problem.places)) != picks:
        picks = next_picks
    return problem.ranks(picks)


def svd_llm_v2(problem: Problem) -> Ranks:
    """SVD-LLM v2 (arXiv 2503.12340, Algorithm 1): inside a type, ratio removed R_w = N R s_w / Σ s, s_w = 1 / log(L_w).

    L_w is the Frobenius norm of the truncation error over the calibration tokens at the target ratio R: here of the component's
    analytic loss. A type is a kind of component, N of them. Where some L_w <= 1 the rule is not defined (log <= 0)
    and the type stays uniform, as in a third party's code.
    """
    shares_of_type: dict[Place, float] = {}
    for component in COMPONENTS:
        places = [place for place in problem.places if place[1] == component]
        norms = [_truncation(problem, place) for place in places]
        shares_of_type |= dict(zip(places, inverse_log_shares(norms), strict=True))

    def at(keep: float) -> Shares:
        return {place: 1 - (1 - keep) * shares_of_type[place] for place in problem.places}

    # A type's shares have the mean 1, so targets below 0 are needed where components end at their smallest ranks.
    return problem.shared(at, -float(len(problem.places)), 1.0)


def _truncation(problem: Problem, place: Place) -> float:
    tail = problem.required_signals.tails[place]
    rank = max(1, int(problem.keep * (len(tail) - 1)))
    return math.sqrt(max(tail[rank], 0.0) * problem.required_signals.tokens)


def inverse_log_shares(norms: Sequence[float]) -> list[float]:
    """N s_w / Σ s with s_w = 1 / log(L_w); all 1 where a logarithm is not positive."""
    if min(norms) <= 1:
        return [1.0] * len(norms)
    scores = [1 / math.log(norm) for norm in norms]
    return [len(scores) * score / sum(scores) for score in scores]


def d_rank(problem: Problem) -> Ranks:
    """D-Rank (arXiv 2509.25622): minimise Σ R_i / k_i with Σ w_i k_i = B, R_i = exp(−Σ p log p), p = σ² / Σ σ².

    k_i = sqrt(R_i / w_i) B / Σ sqrt(R_j w_j), w_i the parameters of one rank (with several budgets the largest part of any of
    them). A component at its full rank leaves the rest to the others. Then a part β of the rank of QK moves to OV of its
    layer (the paper: of Q and K to V, β from 0.2 to 0.35); the best β by measured loss, 0 among them.
    """
    effective = {place: effective_rank(problem.required_signals.tails[place]) for place in problem.places}
    weight = {place: float(max(_step_price(problem, place))) for place in problem.places}
    base = {
        place: math.sqrt(effective[place] / weight[place]) / problem.ranks_of[place][-1]
        for place in problem.places
    }

    def taxed(beta: float) -> Callable[[float], Shares]:
        def at(scale: float) -> Shares:
            shares = {place: min(1.0, scale * base[place]) for place in problem.places}
            for layer in range(problem.costs.geometry.layers):
                tax = beta * shares[layer, "qk"]
                shares[layer, "qk"] -= tax
                shares[layer, "ov"] = min(1.0, shares[layer, "ov"] + tax)
            return shares

        return at

    top = 1 / min(base.values())
    return best(problem, [(taxed(beta), 0.0, top) for beta in BETAS])


def _step_price(problem: Problem, place: Place) -> np.ndarray:
    """The part of each budget that one rank takes."""
    return problem.prices[place][:, -1] / problem.ranks_of[place][-1] / problem.limits


def effective_rank(tail: Sequence[float]) -> float:
    """exp of the entropy of the energies whose tail sums these are; 1 where there is no energy."""
    energies = np.maximum(-np.diff(np.asarray(tail)), 0.0)
    total = energies.sum()
    if total <= 0:
        return 1.0
    p = energies[energies > 0] / total
    return float(np.exp(-(p * np.log(p)).sum()))


def modegpt(problem: Problem) -> Ranks:
    """MoDeGPT (arXiv 2408.09632v5, section 3.3): sparsity φ = L φ_avg softmax(−s / ε), s the layer's Block Influence.

    The optimum of Σ s_i (1 − φ_i) + ε Σ H(φ_i) with mean φ_avg; at most 0.95. All components of a layer keep 1 − φ. The
    temperature ε with the least measured loss; infinity (uniform) is among them.
    """

    def at_temperature(temperature: float) -> Callable[[float], Shares]:
        def at(keep: float) -> Shares:
            phi = sparsities(problem.required_signals.influence, 1 - keep, temperature)
            return by_layer(problem, 1 - np.minimum(phi, LARGEST_SPARSITY))

        return at

    low = -float(problem.costs.geometry.layers)
    return best(problem, [(at_temperature(eps), low, 1.0) for eps in TEMPERATURES])


def sparsities(influence: Sequence[float], mean: float, temperature: float) -> np.ndarray:
    """L mean softmax(−s / temperature), (L,), not yet clipped."""
    powers = np.exp(-(np.asarray(influence) - min(influence)) / temperature)
    return len(powers) * mean * powers / powers.sum()


def owl(problem: Problem) -> Ranks:
    """OWL (arXiv 2310.05175): a layer's ratio is the target plus its outlier share, scaled into a window of width 2 λ.

    D_l: the part of the layer's |W| ||x|| above M times their mean. As in the authors' code: D scaled to 0 .. 2 λ, less its
    mean, plus the target. Unstructured sparsity there, the ratio of all components of the layer here. The best M and λ
    of the papers' ranges by measured loss.
    """

    def windowed(multiple: float, width: float) -> Callable[[float], Shares]:
        offsets = outlier_offsets(problem.required_signals.outliers[multiple], width)
        return lambda keep: by_layer(problem, np.clip(keep + offsets, 0.0, 1.0))

    pairs = [(multiple, width) for multiple in problem.required_signals.outliers for width in OUTLIER_WINDOWS]
    return best(problem, [(windowed(*pair), -1.0, 2.0) for pair in pairs])


def outlier_offsets(shares: Sequence[float], width: float) -> np.ndarray:
    """(L,): D from 0 to 2 λ, centred; zeros where all layers have as many outliers."""
    values = np.asarray(shares, dtype=float)
    span = values.max() - values.min()
    scaled = (values - values.min()) * (2 * width / span) if span > 0 else np.zeros_like(values)
    return scaled - scaled.mean()


def by_layer(problem: Problem, shares: Sequence[float] | np.ndarray) -> Shares:
    """The same share for the three components of a layer."""
    return {place: float(shares[place[0]]) for place in problem.places}


def best(problem: Problem, candidates: Sequence[tuple[Callable[[float], Shares], float, float]]) -> Ranks:
    """The ranks that lose least when measured, over constants to tune, each given as its shares and the range of its target.

    Raises:
        OutOfReach: with none of them the budgets can be met.
    """
    tuned = []
    for candidate in candidates:
        with suppress(OutOfReach):
            tuned.append(problem.shared(*candidate))
    return least(problem, tuned)


def least(problem: Problem, candidates: Sequence[Ranks]) -> Ranks:
    """The ranks that lose least on the tuning windows, first of equals.

    Raises:
        OutOfReach: there are none.
    """
    losses = {ranks: problem.loss(ranks, TUNING_WINDOWS) for ranks in dict.fromkeys(candidates)}
    if not losses:
        raise OutOfReach("no constants of the rule meet the budgets")
    return min(losses, key=lambda ranks: losses[ranks])
