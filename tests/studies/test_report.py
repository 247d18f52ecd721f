from dataclasses import replace
from pathlib import Path

from tests.studies.test_summary import STUDY, leave, record
from visuomotor.studies.engine import StudyPlan
from visuomotor.studies.report import write_report
from visuomotor.studies.summary import summarise


def test_a_study_is_one_file_with_its_tables_and_pictures(tmp_path: Path) -> None:
    for arm, successes in (("a", 4), ("b", 19), ("c", 18)):
        leave(tmp_path, arm, 0, [record(i, i < successes) for i in range(20)])
    (tmp_path / "b" / "seed-0" / "measured").mkdir()
    (tmp_path / "b" / "seed-0" / "measured" / "routing.png").touch()
    study = replace(STUDY, arms=(replace(STUDY.arms[0], published="64 | 61"), *STUDY.arms[1:]))
    plan = StudyPlan(out=tmp_path, data=tmp_path / "data", seeds=1, episodes=20, minutes=3)
    path = write_report(study, plan, summarise(study, plan))
    text = path.read_text()
    assert text.startswith("# letters\n\nWhich letter?\n\nEach arm and seed: 3 minutes of training, 20 episodes.\n")
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(table) == 2 + 3
    assert {line.replace("\\|", "").count("|") for line in table} == {len(table[0].split("|")) - 1}
    assert "64 \\| 61" in table[2]
    assert table[3].startswith("| b | 95.0 % [76, 99] (19/20) ")
    assert "| more |" in table[3]
    assert "20 rollouts an arm show differences of" in text
    assert "**c**: the same, said first. Checkpoints: step-000000 " in text
    assert "![b/seed-0/measured/routing.png](b/seed-0/measured/routing.png)" in text
