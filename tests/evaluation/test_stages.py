from dataclasses import replace

from tests.evaluation.test_results import record
from visuomotor.evaluation.stages import by_stage, stage_table


def test_a_stage_counts_where_it_or_a_later_one_was_complete() -> None:
    far = [(0.4, 0.0, 0.0), (1.0, 0.2, 0.0), (0.97, 1.0, 0.5), (1.0, 1.0, 1.0)]
    records = [
        record(i, done[-1] == 1, stages=tuple(zip(("reach", "grasp", "place"), done, strict=True)))
        for i, done in enumerate(far)
    ]
    push = record(4, True, task="push", stages=(("reach", 1.0), ("push", 1.0)))
    silent = replace(records[0], stages=())
    found = by_stage([*records, push, silent])
    assert list(found) == ["lift", "push"]
    assert {name: (rate.successes, rate.n) for name, rate in found["lift"].items()} == {
        "reach": (3, 4), "grasp": (2, 4), "place": (1, 4)
    }  # fmt: skip
    assert list(found["push"]) == ["reach", "push"]
    columns, rows = stage_table(found)
    assert len(columns) == 3
    assert rows[1][:2] == ["lift", "grasp"]
    assert rows[1][2].startswith("50.0 %")
    assert by_stage([silent]) == {}
