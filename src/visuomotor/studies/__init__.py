"""Studies: one question each, answered by training arms that differ in one thing and rolling them out alike."""

from visuomotor.studies.damvla_switches import DAMVLA_PARTS, DAMVLA_SWITCHES
from visuomotor.studies.dexvla_curriculum import DEXVLA_CURRICULUM
from visuomotor.studies.dm0_mechanisms import DM0_MECHANISMS
from visuomotor.studies.engine import Arm, Study, StudyPlan, run_study
from visuomotor.studies.summary import ArmResult, Summary, summarise

__all__ = ["STUDIES", "Arm", "ArmResult", "Study", "StudyPlan", "Summary", "run_study", "summarise"]

STUDIES = {study.name: study for study in (DM0_MECHANISMS, DAMVLA_SWITCHES, DAMVLA_PARTS, DEXVLA_CURRICULUM)}
