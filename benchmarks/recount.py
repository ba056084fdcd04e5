"""Random jobs, planned and then recounted from the tensors' shapes of the compact model: how often is a budget exceeded?

``python -m benchmarks.recount --jobs 10000`` draws small models of every family, curves, budgets and constraints, plans, builds
the compact model without data and counts its tensors. Nothing of the cost model is used for the count.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from allocator.base.errors import BudgetInfeasible
from allocator.plan.ask.budgets import Budget, parse_budget, parse_budgets
from allocator.plan.ask.constraints import parse_constraints
from allocator.plan.curves.measured import build_curve
from allocator.plan.documents.curve import OfLatent
from allocator.plan.documents.profile import Calibration, Model, Profile
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.dtypes import CACHES, FLOATS, WEIGHTS
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.precision import JOINT, LATENT, LATENTS, Latent
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import plan_from_profile
from solvers.families import FAMILIES
from solvers.quantization import can_pack, group_size
from tests.support.profiles import point_of

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_TIME_LIMIT_S = 1.0


@dataclass(frozen=True)
class Job:
    """A request that a user might make: a model's configuration, its curves, budgets and constraints."""

    config: Any
    dtype: torch.dtype
    profile: Profile
    budgets: list[str]
    constraints: dict[str, list[str]]


def random_config(random: np.random.Generator) -> Any:
    """A small configuration of any family."""
    family = str(random.choice(sorted(FAMILIES)))
    heads, head_dim = int(random.choice([2, 4, 8])), int(random.choice([4, 8, 16, 32]))
    equal = family in ("gpt2", "gpt_neox", "opt", "mpt", "phi3")
    width = heads * head_dim if equal else int(random.choice([24, 32, 64, 96]))
    layers = int(random.integers(1, 5))
    sizes = {
        "vocab_size": int(random.integers(40, 400)),
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 128,
        "tie_word_embeddings": bool(random.random() < 0.5),
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    inner = int(random.integers(8, 200))
    if family not in ("gpt2", "opt", "mpt"):
        sizes["intermediate_size"] = inner
    if family not in ("gpt2", "opt", "mpt", "gpt_neox"):
        sizes["num_key_value_heads"] = int(random.choice([n for n in (1, 2, 4, 8) if heads % n == 0]))
    if not equal:
        sizes["head_dim"] = head_dim
    biased, window = bool(random.random() < 0.5), int(random.integers(4, 100))
    kinds = [str(random.choice(["sliding_attention", "full_attention"])) for _ in range(layers)]
    own: dict[str, dict[str, Any]] = {
        "llama": {"attention_bias": biased, "mlp_bias": biased},
        "mistral": {"sliding_window": window},
        "qwen2": {"use_sliding_window": True, "sliding_window": window, "layer_types": kinds},
        "qwen3": {"use_sliding_window": True, "sliding_window": window, "layer_types": kinds},
        "gemma2": {"sliding_window": window, "layer_types": kinds},
        "gemma3_text": {"sliding_window": window, "layer_types": kinds},
        "phi3": {"sliding_window": window},
        "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": window},
        "gpt2": {"n_inner": inner},
        "gpt_neox": {"attention_bias": biased},
        "opt": {"ffn_dim": inner, "word_embed_proj_dim": width, "enable_bias": biased},
        "mpt": {"max_seq_len": 128},
    }
    if family == "mpt":
        del sizes["max_position_embeddings"]
    return AutoConfig.for_model(family, **sizes | own.get(family, {}))


def geometry_of(config: Any, dtype: torch.dtype) -> Geometry:
    """The geometry that a job's first stage finds."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return Geometry(
        **FAMILIES[config.model_type].geometry(config),
        total_params=sum(parameter.numel() for parameter in model.parameters()),
        bytes_per_param=dtype.itemsize,
    )


def _random_budget(random: np.random.Generator) -> str:
    share = round(float(random.uniform(0.35, 1.0)), 3)
    context = int(random.choice([1, 16, 50, 128, 4096]))
    name = str(random.choice(["params", "block_params", "kv_bytes_per_token", "flops_per_token", "memory"]))
    options = []
    if name == "memory":
        options += [f"batch={int(random.integers(1, 9))}", f"context={context}"]
    if name == "flops_per_token":
        options += [f"context={context}", f"phase={random.choice(['prefill', 'decode'])}"]
    if name == "memory" and random.random() < 0.7:
        options.append(f"weights={random.choice(WEIGHTS)}")
    if name in ("memory", "kv_bytes_per_token") and random.random() < 0.7:
        options.append(f"cache={random.choice(sorted(CACHES))}")
    return f"{name}={share}" + (f"@{','.join(options)}" if options else "")


def random_job(seed: int) -> Job:
    """The job of this number."""
    random = np.random.default_rng(seed)
    config = random_config(random)
    dtype = _DTYPES[str(random.choice(sorted(_DTYPES)))]
    geometry = geometry_of(config, dtype)
    latents = {form: _latent_curve(geometry, form, np.random.default_rng([seed, 1])) for form in LATENTS}
    curves = []
    for layer in range(geometry.layers):
        for component in COMPONENTS:
            ranks = geometry.candidate_ranks(component)
            height, rate = 10.0 ** random.uniform(-6, -1), random.uniform(1, 9)
            analytic = [height * math.exp(-rate * rank / ranks[-1]) for rank in ranks[:-1]] + [0.0]
            points = [point_of(ranks[n], analytic[n], 1e-6) for n in range(0, len(ranks) - 1, 5)]
            curve = build_curve(layer, component, ranks, analytic, points)
            mine = {form: losses for form, losses in latents.items() if losses and LATENTS[form] == component}
            curves.append(curve.replaced(**mine))
    model = {"reference": f"random:{seed}", "weights_sha256": "0" * 64, "geometry": geometry.document}
    profile = Profile(
        schema="rankalloc.profile/1",
        key=f"random-{seed}",
        model=Model.read(model),
        solver="a3",
        calibration=Calibration(sha256="0" * 64),
        curves=tuple(curves),
    )
    budgets: dict[str, str] = {}
    for _ in range(int(random.integers(1, 4))):
        text = _random_budget(random)
        budgets.setdefault(parse_budget(text).metric.label, text)
    constraints: dict[str, list[str]] = {}
    if random.random() < 0.3:
        constraints["align"] = [f"mlp={random.choice([2, 4, 8])}", "ov=2"]
    if random.random() < 0.2:
        constraints["tie"] = [str(random.choice(COMPONENTS))]
    return Job(config, dtype, profile, list(budgets.values()), constraints)


def _latent_curve(geometry: Geometry, form: Latent, random: np.random.Generator) -> OfLatent | None:
    """Losses of queries or values of a latent, for half of the models that can have them."""
    ranks = geometry.latent_ranks(form)
    if not ranks or random.random() < 0.5:
        return None
    height = 10.0 ** random.uniform(-6, -2)
    losses = tuple(height * math.exp(-9 * rank / ranks[-1]) for rank in ranks)
    return OfLatent(ranks=tuple(ranks), loss_nats=losses, predicted=())


def compact_model(config: Any, ranks: Ranks) -> Any:
    """The compact model at these ranks, as ``solvers.checkpoints.writing`` makes it, without data."""
    family = FAMILIES[config.model_type]
    config_class, model_class = family.compact
    plain = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures", "dtype")}
    sizes: dict[str, list[int]] = {f"{c}_ranks": list(ranks.of(c)) for c in COMPONENTS}
    if ranks.latents:
        of_latent = [LATENT in forms for forms in ranks.latents]
        sizes["ov_joint"] = [JOINT in forms for forms in ranks.latents]
        sizes["query_latents"] = [
            config.num_attention_heads * rank * latent
            for rank, latent in zip(ranks.qk, of_latent, strict=True)
        ]
        head_dim = geometry_of(config, torch.float32).head_dim
        sizes["qk_ranks"] = [
            head_dim if latent else rank for rank, latent in zip(ranks.qk, of_latent, strict=True)
        ]
    if pairs := family.rotary_pairs(config):
        sizes["qk_pairs"] = [min(rank // 2, pairs) for rank in sizes["qk_ranks"]]
    with torch.device("meta"):
        return model_class(config_class(**plain, **sizes))


class Recount:
    """Counts of a model from its modules alone."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.model, self.own = model, dtype.itemsize
        config = model.config
        family = FAMILIES[config.model_type.removeprefix("rankalloc_")]
        self.layers = list(family.layers(model))
        self.attentions = [getattr(layer, family.attention_name) for layer in self.layers]
        self.linears = [m for layer in self.layers for m in layer.modules() if isinstance(m, nn.Linear)]
        self.experts = [p for n, p in model.named_parameters() if ".experts." in n]
        self.routers = [
            p for n, p in model.named_parameters() if n.endswith("mlp.gate.weight") and p.ndim == 2
        ]
        self.active = Fraction(
            getattr(config, "num_experts_per_tok", 1), getattr(config, "num_local_experts", 1)
        )

    def of(self, metric: Metric) -> int:
        """The metric in its unit."""
        return int(getattr(self, metric.name)(metric))

    def params(self, metric: Metric) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def block_params(self, metric: Metric) -> int:
        shrinking = sum(p.numel() for p in self.experts)
        for layer in self.layers:
            for name, module in layer.named_modules():
                if isinstance(module, nn.Linear):
                    shrinking += module.weight.numel()
                    if name.endswith(_PROJECTIONS) and module.bias is not None:
                        shrinking += module.bias.numel()
        return shrinking + sum(a.v_up.numel() for a in self.attentions if a.v_up is not None)

    def kv_bytes_per_token(self, metric: Metric) -> int:
        size = CACHES[metric.cache] if metric.cache else self.own
        return size * sum(a.k_proj.out_features + a.v_proj.out_features for a in self.attentions)

    def memory(self, metric: Metric) -> int:
        size = CACHES[metric.cache] if metric.cache else self.own
        cached = sum(
            min(metric.context, a.sliding_window or metric.context)
            * (a.k_proj.out_features + a.v_proj.out_features)
            for a in self.attentions
        )
        return self._weights(metric.weights) + metric.batch * size * cached

    def _weights(self, kind: str | None) -> int:
        total = self.params(Metric("params"))
        if kind is None or kind in FLOATS:
            return total * (FLOATS[kind] if kind else self.own)
        quantized = sum(linear.weight.numel() for linear in self.linears)
        return (total - quantized) * self.own + sum(self._quantized(kind, linear) for linear in self.linears)

    def _quantized(self, kind: str, linear: nn.Linear) -> int:
        inputs, outputs, size = linear.in_features, linear.out_features, group_size(linear.in_features)
        if kind == "int4packed" and can_pack(inputs, outputs):
            return outputs * (inputs // 2 + inputs // 32 * 2 * self.own)
        if kind == "int4" and size is not None:
            return outputs * (inputs + inputs // size * (self.own + 1))
        return outputs * (inputs + 4 + 1)

    def flops_per_token(self, metric: Metric) -> int:
        head = self.model.get_output_embeddings().weight
        weights = sum(linear.weight.numel() for linear in self.linears) + head.numel()
        for a in self.attentions:
            if a.v_up is not None:  # of a latent once a token, or of what each query head attended to
                weights += a.v_up.numel() * (1 if metric.phase == "prefill" else a.heads // a.kv_heads)
        weights += sum(p.numel() for p in self.routers) + self.active * sum(p.numel() for p in self.experts)
        attended = 0
        for a in self.attentions:
            window = a.sliding_window or metric.context
            positions = [min(n, window) for n in range(1, metric.context + 1)]
            twice = (
                2 * positions[-1]
                if metric.phase == "decode"
                else math.ceil(Fraction(2 * sum(positions), metric.context))
            )
            value = a.ov_rank
            if a.v_up is not None:
                value = a.source_head_dim if metric.phase == "prefill" else a.v_up.shape[1]
            attended += a.heads * (a.qk_rank + value) * twice
        return int(2 * weights + attended)


def check(job: Job) -> tuple[bool, list[str]]:
    """Whether a job got a plan, and what is wrong: budgets exceeded, uses told wrong, a refusal without need."""
    geometry = job.profile.model.geometry
    dense = Recount(compact_model(job.config, Ranks.dense(geometry)), job.dtype)
    budgets = parse_budgets(job.budgets)
    limits = [limit_of(budget, dense) for budget in budgets]
    try:
        plan = plan_from_profile(
            job.profile, job.budgets, constraints=job.constraints, time_limit_s=_TIME_LIMIT_S
        )
    except BudgetInfeasible:
        allowed = parse_constraints(job.constraints, geometry).allowed
        smallest_ranks = Ranks(
            *(tuple(allowed[layer, c][0] for layer in range(geometry.layers)) for c in COMPONENTS)
        )
        smallest = Recount(compact_model(job.config, smallest_ranks), job.dtype)
        exceeded = [smallest.of(b.metric) > limit for b, limit in zip(budgets, limits, strict=True)]
        return False, [] if any(exceeded) else ["refused, but the smallest ranks meet every budget"]
    faults = []
    answers = {"plan": plan.chosen, **{name: entry.chosen for name, entry in plan.baseline.items()}}
    for name, ranks in answers.items():
        recount = Recount(compact_model(job.config, ranks), job.dtype)
        for budget, limit, row in zip(budgets, limits, plan.budgets, strict=True):
            counted = recount.of(budget.metric)
            if counted > limit:
                faults.append(f"{name}: {budget.text} exceeded, {counted} of {limit}")
            if name == "plan" and (row.used, row.limit) != (counted, limit):
                faults.append(f"{budget.text}: {row.used} of {row.limit} told, {counted} of {limit} counted")
    return True, faults


def limit_of(budget: Budget, dense: Recount) -> int:
    """The budget's limit, a fraction taken of the counted dense model."""
    if budget.absolute is not None:
        return budget.absolute
    assert budget.fraction is not None, "a budget has a limit or a fraction"
    return int(budget.fraction * dense.of(budget.metric))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recount", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first job")
    options = parser.parse_args()
    outcome: Counter[str] = Counter()
    violations = 0
    for seed in range(options.first, options.first + options.jobs):
        planned, faults = check(random_job(seed))
        outcome["planned" if planned else "refused"] += 1
        violations += bool(faults)
        for line in faults:
            sys.stdout.write(f"job {seed}: {line}\n")
        if sys.stderr.isatty() and seed % 50 == 0:
            sys.stderr.write(f"\r{outcome.total()} of {options.jobs}")
    sys.stdout.write(
        f"{outcome.total()} random jobs ({outcome['planned']} planned, {outcome['refused']} refused as impossible) recounted"
        f" from tensor shapes: {violations} with a budget exceeded, told wrong or refused without need\n"
    )
    raise SystemExit(1 if violations else 0)


if __name__ == "__main__":
    main()
