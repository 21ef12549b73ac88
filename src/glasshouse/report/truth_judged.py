"""Metrics put to the test, and methods that were to tell biased models: as tables with strips of dots."""

from html import escape

from glasshouse.core.result import draw
from glasshouse.evaluate import BiasDetection, Judgement
from glasshouse.evaluate.truth.bias import BIASED, CLEAN
from glasshouse.evaluate.truth.controls import CONTROLS, IGNORANT
from glasshouse.evaluate.truth.judging import CLEAR, ORACLE, RANDOM
from glasshouse.report.study_charts import plural
from glasshouse.report.truth_charts import Span, bar, fixed, ladder, signs, two_lanes, whisker
from glasshouse.report.truth_tables import framed, heading, left_out, row_head
from glasshouse.report.words import number

FAILING = ' class="failing" style="opacity:.68"'


@draw.register
def _(noun: Judgement) -> str:
    if not noun.means:
        return f'<div class="truth"><p>No metric was judged.</p>{left_out(noun.skipped)}</div>'
    maps = list(next(iter(noun.means.values())))
    knowing = [who for who in maps if who not in IGNORANT]
    order = sorted(noun.means, key=lambda name: (bool(noun.faults(name)), -noun.auroc[name]))
    groups = dict.fromkeys(("passes", "fails"), "")
    numbers = ""
    for name in order:
        reason, direction = against(noun, name), noun.directions[name]
        own = noun.means[name]
        title = row_head(name, direction)
        auroc = f'<span class="num">{fixed(noun.auroc[name])}</span>{bar(noun.auroc[name], 0.5)}'
        groups["fails" if reason else "passes"] += (
            f"<tr{FAILING if reason else ''}>{title}"
            f"<td>{ladder(own, knowing, direction == 'down')}</td><td>{auroc}</td>"
            f'<td class="words">{escape(reason) or "passes"}</td></tr>'
        )
        cells = "".join(f'<td class="num">{number(own[who]) if own[who] == own[who] else "–"}</td>' for who in maps)
        numbers += f"<tr>{title}{cells}</tr>"
    heads = "".join(f'<th scope="col">{escape(who)}</th>' for who in ("metric", *maps))
    top = (
        '<th scope="col">metric</th><th scope="col"><span style="display:flex;justify-content:space-between;'
        'max-width:320px"><span>worst map</span><span>best map</span></span></th>'
        '<th scope="col" title="How often the map with less noise scores better, over pairs of maps of one image. '
        '0.5 is a coin.">AUROC</th><th scope="col">verdict</th>'
    )
    bodies = "".join(f"<tbody>{rows}</tbody>" for rows in groups.values() if rows)
    return (
        f'<div class="truth"><p>{len(noun.passing)} of {plural(len(order), "metric")} put the map that knows the model '
        "first, and clearly ahead of those that know nothing, with noise last.</p>"
        f"{signs(knowing, [who for who in maps if who in IGNORANT])}{framed('Metrics put to the test', top, bodies)}"
        f"<details><summary>The numbers</summary>{framed('Means over images', heads, f'<tbody>{numbers}</tbody>')}"
        f"</details>{left_out(noun.skipped)}</div>"
    )


def against(noun: Judgement, name: str) -> str:
    """What speaks against a metric, with the maps that show it; empty if it passes."""
    if not (faults := noun.faults(name)):
        return ""
    behind, above = noun.behind_oracle[name], noun.above_random[name]
    ahead = [who for who, gap in behind.items() if gap < -CLEAR and who != ORACLE]
    close = [who for who in IGNORANT if who not in ahead and behind.get(who, CLEAR) < CLEAR]
    below = [who for who, gap in above.items() if gap < -CLEAR and who != "constant"]
    found = [f"clearly ahead of the oracle: {', '.join(ahead)}"] if ahead else []
    found += [f"not clearly behind the oracle: {', '.join(close)}"] if close else []
    found += [f"clearly behind noise: {', '.join(below)}"] if below else []
    found += [] if RANDOM in behind else ["noise has no score"]
    return ", ".join(faults) + (f" ({'; '.join(found)})" if found else "")


@draw.register
def _(noun: BiasDetection) -> str:
    every = [value for own in noun.on_shortcut.values() for value in own.values()]
    span, whole = Span.of([*every, 0.0]), Span(0.0, 1.0)
    order = sorted(noun.auroc, key=lambda name: -noun.auroc[name])
    rows = {True: "", False: ""}
    for name in order:
        own = noun.on_shortcut[name]
        biased, clean = ([own[m] for m in pool if m in own] for pool in (noun.biased, noun.clean))
        value, error = noun.auroc[name], noun.error[name]
        dots = whisker(value, error, whole, 0.5, value - CLEAR * error > 0.5)
        means = [fixed(sum(pool) / len(pool)) if pool else "–" for pool in (biased, clean)]
        cells = "".join(f'<td class="num">{mean}</td>' for mean in means)
        shown = escape(name) if name in CONTROLS else f"<code>{escape(name)}</code>"
        rows[name in CONTROLS] += (
            f'<tr><th scope="row">{shown}</th><td><span class="num">{fixed(value)} ± {fixed(error)}</span>{dots}</td>'
            f'{cells}<td>{two_lanes(biased, clean, span, 0.0)}</td><td class="num">{fixed(noun.blind[name])}</td></tr>'
        )
    top = '<th scope="col">method</th>' + "".join(
        heading(title, direction, question, ends)
        for title, direction, question, ends in (
            (
                "AUROC",
                "up",
                "Has a biased model more of its map on the shortcut than a clean one? Chance 0.5.",
                "0 … 1",
            ),
            ("biased", "diagnostic", "Share of positive values on the shortcut, less its share of the pixels.", ""),
            ("clean", "diagnostic", "The same for models that do not go by the shortcut.", ""),
            ("each model", "diagnostic", "Above: biased models. Below: clean ones. The line is chance.", span.text),
            ("blind clusters", "up", "Are two clusters of maps the images that the shortcut decided? 0 is chance.", ""),
        )
    )
    titles = {False: "methods, best first", True: "controls"}
    bodies = "".join(
        f'<tbody><tr class="group"><th scope="rowgroup" colspan="6">{titles[own]}</th></tr>{text}</tbody>'
        for own, text in ((False, rows[False]), (True, rows[True]))
        if text
    )
    models = "".join(f"<dt>{escape(m)}</dt><dd>{fixed(v)}</dd>" for m, v in noun.reliance.items())
    return (
        f'<div class="truth"><p>Can maps tell {plural(len(noun.biased), "biased model")} from '
        f"{plural(len(noun.clean), 'clean one')}? A model is biased if its accuracy falls by more than {BIASED} "
        f"when the shortcut lies, clean if by less than {CLEAN}. Of the models, filled dots are biased and hollow ones "
        f"clean. An AUROC with a hollow dot is not above 0.5 by three standard errors; at 0 and 1 the formula for its "
        f"error gives 0.</p>"
        f"{framed('Methods and how well they tell biased models', top, bodies)}"
        f"<details><summary>Reliance of each model</summary><dl>{models}</dl></details>{left_out(noun.skipped)}</div>"
    )
