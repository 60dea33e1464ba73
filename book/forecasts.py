"""How good the forecasts of the book are: a section of the ledger with what was expected before the runs, and what came."""

from pathlib import Path

from resnorm.claims import Card
from resnorm.lab.statistics import brier, calibration

RESOLVED = ("holds", "holds only when", "does not hold", "undecided")
FIGURE = "forecasts.svg"


def section(cards: list[Card], folder: Path) -> list[str]:
    """The parts of the page, with the figure in the folder; none where no forecast was written."""
    cards = [card for card in cards if card.forecast is not None]
    resolved = [card for card in cards if card.kind in RESOLVED]
    if not cards:
        return []
    parts = [
        "## Forecasts",
        "Before some runs a probability was written down that the card would say that the claim holds, on a condition or "
        "without one. *Undecided* counts as no: the forecast is of what these runs will show. What stayed untested counts "
        "for nothing. Claims from before this rule have no forecast, because whoever knows the result forecasts well.",
        "\n".join(
            ["| Claim | Forecast | Came out |", "|---|---|---|"]
            + [
                f"| {{ref}}`{card.statement} <claim-{card.id}>` | {card.forecast:.0%} | {card.symbol} {card.kind} |"
                for card in cards
            ]
        ),
    ]
    if resolved:
        forecasts, outcomes = [card.forecast or 0.0 for card in resolved], list(map(_came_true, resolved))
        parts += [
            f"![{_draw(forecasts, outcomes, folder / FIGURE)}]({FIGURE})",
            "The number at a point says how many forecasts it stands for. "
            f"The Brier score of {len(resolved)} forecasts is {brier(forecasts, outcomes):.2f} {{cite:p}}`brier1950verification`: "
            "0 is perfect, and always saying fifty-fifty gives 0.25.",
        ]
    return parts


def _came_true(card: Card) -> bool:
    return card.kind.startswith("holds")


def _draw(forecasts: list[float], outcomes: list[bool], path: Path) -> str:
    """Draw how often what was given a probability came true; return what the figure says in words."""
    from matplotlib.figure import Figure

    from resnorm import plots

    bins = calibration(forecasts, outcomes)
    with plots.style():
        figure = Figure(figsize=(4.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=plots.GREY, ls="--", lw=1.2)
        axes.annotate("as forecast", (0.68, 0.7), rotation=45, color=plots.GREY, ha="center", va="bottom")
        axes.scatter(
            [one.forecast for one in bins], [one.share for one in bins], s=70, color=plots.COLOURS[0], zorder=3, clip_on=False
        )
        for one in bins:
            axes.annotate(f"{one.count}", (one.forecast, one.share), (8, 4), textcoords="offset points")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability written before", ylabel="share that came true", aspect="equal")
        path.write_text(plots.svg(figure), encoding="utf-8")
    points = "; ".join(f"{one.count} with {one.forecast:.0%} on average, {one.share:.0%} came true" for one in bins)
    return f"Forecasts against outcomes, with the diagonal of a perfect forecaster. {points}."
