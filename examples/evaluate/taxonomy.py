"""Ask which methods explain what, at what price, and how each is put to the test."""

import os
from pathlib import Path

import glasshouse as gh
from glasshouse.evaluate import taxonomy

gh.list_methods()  # all folders are there now

# --8<-- [start:find]
print("of a model that only answers:", *taxonomy.find("processing.*", access={"forward"}))
print("within ten passes, on a ViT:", *taxonomy.find("processing.*", max_cost=10, models="vit"))
print("what units are for:", *taxonomy.find("representation.unit", form="ranked_units"))
# --8<-- [end:find]

# --8<-- [start:describe]
rise = taxonomy.describe("rise")
print(rise.spec.family, rise.spec.form, rise.cost_in_words, sorted(rise.access), sorted(rise.claims), rise.stochastic)
print(rise.info.paper, rise.spec.peers)
# --8<-- [end:describe]

# --8<-- [start:evaluations]
for evaluation in taxonomy.evaluations("rise", given=())[:5]:  # without masks, a data set or people
    print(evaluation.kind, evaluation.metric, evaluation.direction, taxonomy.metric_spec(evaluation.metric).question)
print("axioms of integrated gradients:", taxonomy.methods_for("completeness_gap"))
# --8<-- [end:evaluations]

told = taxonomy.to_dict()
print(len(told["methods"]), "methods,", len(told["metrics"]), "metrics")

if folder := os.environ.get("GLASSHOUSE_PAGES"):  # writes the tables of this page again
    page = Path(folder) / "evaluate" / "taxonomy.md"
    text = page.read_text()
    for name, table in (("methods", taxonomy.table()), ("metrics", taxonomy.metric_table())):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}"
    page.write_text(text)
