"""Metrics put to the test, and methods that were to tell biased models: as tables with strips of dots."""

from html import escape

from glasshouse.core.result import draw
from glasshouse.evaluate import BiasDetection, Judgement
from glasshouse.evaluate.truth.bias import BIASED, CLEAN
from glasshouse.evaluate.truth.controls import CONTROLS, IGNORANT
from glasshouse.evaluate.truth.judgements import HOLDS, ORACLE, PASSES, RANDOM, JudgedTwice
from glasshouse.evaluate.truth.leads import CLEAR
from glasshouse.report.study_charts import plural
from glasshouse.report.truth_charts import Span, bar, fixed, ladder, signs, two_lanes, whisker
from glasshouse.report.truth_tables import framed, heading, left_out, row_head
from glasshouse.report.words import number

TOLD = (
    '<th scope="col" title="How often the map with less noise scores better, over pairs of maps of one image. 0.5 is a '
    'coin.">AUROC</th><th scope="col" title="Oracle clearly ahead of every control, no map clearly ahead of it, and '
    'none clearly behind noise.">verdict</th><th scope="col" title="Is the oracle first and noise last of the five '
    'controls, by the means as they are?">means alone</th>'
)
FAILING = ' class="failing" style="opacity:.68"'


@draw.register
def _(noun: Judgement) -> str:
    if not noun.means:
        return f'<div class="truth"><p>No metric was judged.</p>{left_out(noun.skipped)}</div>'
    maps = list(next(iter(noun.means.values())))
    knowing = [who for who in maps if who not in IGNORANT]
    groups, numbers = dict.fromkeys((PASSES, "fails"), ""), ""
    for name in noun.order:
        reason, direction = against(noun, name), noun.directions[name]
        own = noun.means[name]
        title = row_head(name, direction)
        groups["fails" if reason else PASSES] += (
            f"<tr{FAILING if reason else ''}>{title}"
            f"<td>{ladder(own, knowing, direction == 'down')}</td>{told(noun, name, reason)}</tr>"
        )
        cells = "".join(f'<td class="num">{number(own[who]) if own[who] == own[who] else "–"}</td>' for who in maps)
        numbers += f"<tr>{title}{cells}</tr>"
    heads = "".join(f'<th scope="col">{escape(who)}</th>' for who in ("metric", *maps))
    top = (
        '<th scope="col">metric</th><th scope="col"><span style="display:flex;justify-content:space-between;'
        'max-width:320px"><span>worst map</span><span>best map</span></span></th>' + TOLD
    )
    bodies = "".join(f"<tbody>{rows}</tbody>" for rows in groups.values() if rows)
    plain = sum(noun.literal(name) == HOLDS for name in noun.order)
    return (
        f'<div class="truth"><p>{len(noun.passing)} of {plural(len(noun.order), "metric")} put the map that knows the '
        "model first, and clearly ahead of those that know nothing, with noise last. Read from the means alone, among "
        f"the oracle and the four that know nothing, with no allowance for luck: {plain}.</p>"
        f"{signs(knowing, [who for who in maps if who in IGNORANT])}{framed('Metrics put to the test', top, bodies)}"
        f"<details><summary>The numbers</summary>{framed('Means over images', heads, f'<tbody>{numbers}</tbody>')}"
        f"</details>{left_out(noun.skipped)}</div>"
    )


def told(noun: Judgement, name: str, reason: str) -> str:
    """Three cells: AUROC as a bar, the verdict by the rule, and what the means alone say."""
    return (
        f'<td><span class="num">{fixed(noun.auroc[name])}</span>{bar(noun.auroc[name], 0.5)}</td>'
        f'<td class="words">{escape(reason) or PASSES}</td><td class="words">{escape(noun.literal(name))}</td>'
    )


@draw.register
def _(noun: JudgedTwice) -> str:
    sides = {"scenes that the rule was settled on": noun.settled, "scenes that were kept back": noun.fresh}
    rows = ""
    for name in noun.order:
        directions = noun.fresh.directions | noun.settled.directions
        cells = "".join(
            told(one, name, "" if one.verdict(name) == PASSES else one.verdict(name))
            if name in one.means
            else "<td>–</td>" * 3
            for one in sides.values()
        )
        mark = f"<td>{'<b>changed</b>' if name in noun.changed else ''}</td>"
        fails = name not in noun.fresh.passing and name not in noun.changed
        rows += f"<tr{FAILING if fails else ''}>{row_head(name, directions[name])}{cells}{mark}</tr>"
    over = "".join(
        f'<th scope="colgroup" colspan="3">{words} (seed {escape(str(one.settings.get("seed", "unknown")))})</th>'
        for words, one in sides.items()
    )
    top = f'<td></td>{over}<td></td></tr><tr><th scope="col">metric</th>{TOLD * 2}<th scope="col">changed</th>'
    parts = "".join(f"<details><summary>Map by map, {w}</summary>{draw(one)}</details>" for w, one in sides.items())
    changed = f"Changed: {escape(', '.join(noun.changed))}." if noun.changed else "No verdict changed."
    return (
        f'<div class="truth"><p>The rule and the settings of metrics were chosen with the first scenes in view, so '
        f"what it says there is no evidence for it. On fresh ones {len(noun.fresh.passing)} of "
        f"{plural(len(noun.fresh.means), 'metric')} pass, where {len(noun.settled.passing)} of "
        f"{len(noun.settled.means)} did. {changed} Model, kind of scenes and settings are the same in both.</p>"
        f"{framed('Metrics judged twice', top, f'<tbody>{rows}</tbody>')}{parts}</div>"
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
    found += [noun.power(name)] if noun.power(name) else []
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
