#!/usr/bin/env python3
"""Errors of each sampling design, in value and gradient, from flat to peaked attention.

Attention is the softmax of temperature * z over K positions, with z of variance 1, and N positions
are drawn from it. A row of the table pools several draws of attention a, features f and direction
g, in float64, over which squared errors and their scales are summed before they are divided:

- value MSE: E|Phi^ - Phi|^2 over sum_i a_i |f_i - Phi|^2, the variance of one draw from the
  attention. Sampling with replacement has 1/N, so that N times this is the design effect of survey
  sampling; |Phi|^2 would be the wrong scale, as it measures how far features are from 0.
- gradient MSE: E|G^ - G|^2 over |G|^2 for the gradient G_i = a_i (f_i - Phi) . g of Phi . g to the
  logits.
- gradient bias: |E G^ - G| over |G|. What Monte-Carlo noise adds to the norm of a mean error is
  taken out (different groups of repetitions are multiplied), and the standard error is a jackknife
  over these groups. A bias whose square is within three standard errors of 0 is given as the
  bound "< ...".

Features are

- independent: normal, nothing in common between positions;
- common part: ReLU features normalised to length 1, which share much of their direction;
- smooth: normal fields with a correlation length of some positions on a square map, as neighbouring
  patches have them; z is such a field as well, so that high attention clusters.

The value does not depend on centring. ``published`` is the biased gradient of the 2019 program.

What it asserts, beyond three standard errors: all but ``published`` and centred designs are
unbiased, ``published`` is not where attention is peaked; ``murthy`` and ``systematic`` have a
gradient MSE no larger than ``des-raj`` (centred ones 10 % larger at most), which has none larger
than ``replacement`` where attention is peaked; centring divides it by three at least where features
share a large part and attention is diffuse.

What it shows besides: the order of systematic sampling helps the value of smooth features, unless
the step between positions is a multiple of the map's rows, as it is in flat attention here: then
all positions share a column. Few different samples also raise the bias of centring above 1/N.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ats import expectation, sample
from ats.files import atomic_path
from ats.sampling import DESIGNS, Design, DesignFunction

FEATURES = ("independent", "common part", "smooth")
UNBIASED = ("replacement", "des-raj", "murthy", "systematic")
N_FEATURES = 32
COMMON = 2.0  # length of the common part of ReLU features, before the ReLU, over their spread
SMOOTHNESS = 2.0  # standard deviation, in positions, of the kernel that smooths fields
GROUPS = 20  # of repetitions, for the bias and its standard error
CHUNK = 1000  # repetitions at once: bounds the memory
MARKERS = "<!-- table -->", "<!-- /table -->"


@dataclass(frozen=True)
class Settings:
    """What is measured: K = side^2 positions, N of which are drawn."""

    side: int = 20
    n_patches: int = 10
    temperatures: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0)
    draws: int = 6
    repetitions: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class Case:
    """One draw of logits (K), features (K, F) and the direction (F) that the gradient is of."""

    logits: Tensor
    features: Tensor
    direction: Tensor

    def exact(self) -> tuple[Tensor, Tensor, float]:
        """Value (F), gradient to the logits (K), and the variance of one draw."""
        attention = self.logits.softmax(0)
        value = attention @ self.features
        deviation = self.features - value
        variance = float(attention @ deviation.square().sum(1))
        return value, attention * (deviation @ self.direction), variance


@dataclass(frozen=True)
class Estimate:
    """A number and its Monte-Carlo standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        """As many digits as a table needs."""
        for limit, digits in ((0.01, ".2g"), (1, ".3f"), (10, ".2f")):
            if self.mean < limit:
                return format(self.mean, digits)
        return format(self.mean, ".0f")


@dataclass(frozen=True)
class Errors:
    """Errors of a design; ``squared_bias`` may be negative, as an unbiased estimate of 0 is."""

    value: Estimate
    gradient: Estimate
    squared_bias: Estimate

    def bias(self) -> str:
        """The norm with its standard error, or a bound where it cannot be told from 0."""
        mean, error = self.squared_bias.mean, self.squared_bias.error
        if mean < 3 * error:
            return f"< {math.sqrt(max(mean, 0.0) + 3 * error):.2g}"
        norm = math.sqrt(mean)
        return f"{norm:.2f} ± {max(error / (2 * norm), 0.005):.2f}"


Results = dict[tuple[str, float, str, bool], Errors]
"""By features, temperature, design and whether it is centred."""


def draw_cases(settings: Settings, features: str, temperature: float) -> list[Case]:
    """The cases of a row of the table, the same at every temperature."""
    generator = torch.Generator().manual_seed(settings.seed)
    cases = []
    for _ in range(settings.draws):
        shape = (N_FEATURES + 1, settings.side**2)
        fields = torch.randn(shape, generator=generator, dtype=torch.float64)
        common = torch.randn(N_FEATURES, generator=generator, dtype=torch.float64)
        direction = torch.randn(N_FEATURES, generator=generator, dtype=torch.float64)
        if features == "smooth":
            fields = smooth(fields, settings.side)
        values = fields[1:].T
        if features == "common part":
            values = torch.nn.functional.normalize((values + COMMON * common).relu(), dim=1)
        cases.append(Case(temperature * fields[0], values, direction))
    return cases


def smooth(fields: Tensor, side: int) -> Tensor:
    """White noise (n, side^2) turned into smooth fields of mean 0 and variance 1."""
    place = torch.arange(side, dtype=torch.float64)
    kernel = torch.exp(-((place[:, None] - place) ** 2) / (2 * SMOOTHNESS**2))
    rows = (kernel @ fields.reshape(-1, side, side) @ kernel).flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    return rows / rows.std(1, keepdim=True)


def perplexity(cases: list[Case]) -> float:
    """Exponential of the mean entropy: the number of positions that attention is spread over."""
    entropies = [torch.special.entr(case.logits.softmax(0)).sum() for case in cases]
    return float(torch.stack(entropies).mean().exp())


def estimates(
    case: Case, design: DesignFunction, settings: Settings, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Estimated values (R, F) and gradients to the logits (R, K), some repetitions at a time."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, settings.repetitions, CHUNK):
        rows = min(CHUNK, settings.repetitions - start)
        logits = case.logits.repeat(rows, 1).requires_grad_()
        attention = logits.softmax(1).reshape(rows, settings.side, settings.side)
        drawn = sample(attention, settings.n_patches, design=design, generator=generator)
        indices = drawn.positions @ torch.tensor([settings.side, 1])
        value = expectation(case.features[indices], drawn.weights)
        (gradient,) = torch.autograd.grad((value @ case.direction).sum(), logits)
        yield value.detach(), gradient


def measure(cases: list[Case], design: DesignFunction, settings: Settings) -> Errors:
    """Errors of a design, pooled over cases; every design sees the same uniforms."""
    values, gradients = [], []
    scales = [0.0, 0.0]
    products = torch.zeros(GROUPS, GROUPS, dtype=torch.float64)
    for number, case in enumerate(cases):
        value, gradient, variance = case.exact()
        chunks = estimates(case, design, settings, settings.seed + number)
        parts = [torch.cat(part) for part in zip(*chunks, strict=True)]
        values.append((parts[0] - value).square().sum(1))
        wrong = parts[1] - gradient
        gradients.append(wrong.square().sum(1))
        means = torch.stack([group.mean(0) for group in wrong.tensor_split(GROUPS)])
        products += means @ means.T
        scales[0] += variance
        scales[1] += float(gradient.square().sum())
    return Errors(
        pooled_mean(values, scales[0]),
        pooled_mean(gradients, scales[1]),
        squared_norm_of_mean(products, scales[1]),
    )


def pooled_mean(squares: list[Tensor], scale: float) -> Estimate:
    """Sum of the cases' mean squared errors over the sum of their scales."""
    variance = sum(float(rows.var()) / len(rows) for rows in squares)
    mean = sum(float(rows.mean()) for rows in squares)
    return Estimate(mean / scale, math.sqrt(variance) / scale)


def squared_norm_of_mean(products: Tensor, scale: float) -> Estimate:
    """Squared norm of an expectation, from the inner products (G, G) of G groups' means.

    Two different groups are independent, so that the mean of their products is unbiased; the
    square of one group's mean would add its noise. The jackknife's standard error is too large, by
    a quarter or so, where the expectation is 0, and so errs on the safe side.
    """
    groups = len(products)
    apart = products - torch.diag(products.diag())
    whole = apart.sum() / (groups * (groups - 1))
    without = (apart.sum() - 2 * apart.sum(1)) / ((groups - 1) * (groups - 2))
    variance = (groups - 1) / groups * (without - without.mean()).square().sum()
    return Estimate(float(whole) / scale, math.sqrt(float(variance)) / scale)


def measure_all(settings: Settings) -> Results:
    """Every design on every case."""
    results: Results = {}
    for features in FEATURES:
        for temperature in settings.temperatures:
            cases = draw_cases(settings, features, temperature)
            for name in (*UNBIASED, "published"):
                design = DESIGNS[name]
                results[features, temperature, name, False] = measure(cases, design, settings)
                if isinstance(design, Design):
                    centred = replace(design, centred=True)
                    results[features, temperature, name, True] = measure(cases, centred, settings)
    return results


def markdown(results: Results, settings: Settings) -> str:
    """One table for each kind of features."""
    lines = [
        f"K = {settings.side**2} positions, N = {settings.n_patches} patches, {settings.draws} "
        f"draws of attention and features, {settings.repetitions} samples of each.",
    ]
    for features in FEATURES:
        lines += ["", f"Features: {features}", ""]
        lines += [
            "| temperature (spread over) | design | value MSE | gradient MSE | gradient bias "
            "| centred: gradient MSE | centred: gradient bias |",
            "|---|---|---:|---:|---:|---:|---:|",
        ]
        for temperature in settings.temperatures:
            spread = perplexity(draw_cases(settings, features, temperature))
            label = f"{temperature:g} ({spread:.3g} positions)"
            for name in (*UNBIASED, "published"):
                plain = results[features, temperature, name, False]
                centred = results.get((features, temperature, name, True))
                last = ("", "") if centred is None else (str(centred.gradient), centred.bias())
                cells = (label, name, str(plain.value), str(plain.gradient), plain.bias(), *last)
                lines.append(f"| {' | '.join(cells)} |")
                label = ""
    return "\n".join(lines)


def broken_claims(results: Results) -> list[str]:
    """What the table ought to show and does not, beyond three standard errors."""
    broken = []

    def claim(holds: bool, what: str) -> None:
        if not holds:
            broken.append(what)

    for features, temperature, name, centred in results:
        here = f"{features}, temperature {temperature:g}{', centred' * centred}"
        own = results[features, temperature, name, centred]
        bias = own.squared_bias
        if name == "published":
            if temperature >= 2:
                claim(bias.mean > max(0.01, 3 * bias.error), f"published is biased: {here}")
            continue
        if not centred:
            claim(bias.mean <= 4 * bias.error, f"{name} is unbiased: {here}")
        des_raj = results[features, temperature, "des-raj", centred]
        if name in ("murthy", "systematic"):
            # The better estimate that a centred feature is compared with is less like the feature.
            allowed = 1.1 if centred else 1.0
            claim(at_most(own.gradient, des_raj.gradient, allowed), f"{name} <= des-raj: {here}")
        if name == "replacement" and temperature >= 2:
            claim(at_most(des_raj.gradient, own.gradient), f"des-raj <= replacement: {here}")
        if features == "common part" and temperature <= 1 and centred:
            plain = results[features, temperature, name, False]
            claim(3 * own.gradient.mean <= plain.gradient.mean, f"centring helps {name}: {here}")
    return broken


def at_most(one: Estimate, other: Estimate, factor: float = 1.0) -> bool:
    """Whether one is not larger than a multiple of the other within three standard errors."""
    return one.mean <= factor * other.mean + 3 * math.hypot(one.error, factor * other.error)


def insert_table(page: str, table: str) -> str:
    """The page with the table between its markers; the second marker is added where missing.

    Raises:
        ValueError: the page has no marker.
    """
    before, start, after = page.partition(MARKERS[0])
    if not start:
        raise ValueError(f"the page has no line {MARKERS[0]} to put the table behind")
    _, end, rest = after.partition(MARKERS[1])
    # What follows a lone first marker is the page's text, not an old table.
    behind = rest if end else after
    return f"{before}{MARKERS[0]}\n\n{table}\n\n{MARKERS[1]}{behind}"


def main(arguments: list[str] | None = None) -> None:
    """Print the table, write it into a page, and check what it claims."""
    parser = argparse.ArgumentParser(description="Errors of each sampling design.")
    parser.add_argument("--markdown", type=Path, help="page to write the table into")
    parser.add_argument("--repetitions", type=int, default=Settings.repetitions, help="samples")
    args = parser.parse_args(arguments)
    settings = Settings(repetitions=args.repetitions)
    start = time.perf_counter()
    results = measure_all(settings)
    table = markdown(results, settings)
    print(table)
    print(f"\n{time.perf_counter() - start:.0f} s")
    broken = broken_claims(results)
    assert not broken, "the table does not show that\n" + "\n".join(broken)
    if args.markdown:
        page = insert_table(args.markdown.read_text(encoding="utf-8"), table)
        with atomic_path(args.markdown) as temporary:
            temporary.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
