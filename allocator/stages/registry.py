"""All stages. A new one is a file beside this one, a line here, and its place in ``kinds.SEQUENCES``."""

from allocator.stages.allocate import AllocateStage
from allocator.stages.apply import ApplyStage
from allocator.stages.assemble import AssembleStage
from allocator.stages.calibrate import CalibrateStage
from allocator.stages.evaluate import EvaluateStage
from allocator.stages.heal import HealStage
from allocator.stages.pipeline import Stage
from allocator.stages.prepare import PrepareStage
from allocator.stages.probe import ProbeStage
from allocator.stages.profile import ProfileStage
from allocator.stages.refine import RefineStage
from allocator.stages.report import ReportStage
from allocator.stages.surrounding_layers import SurroundingsStage

STAGES: dict[str, Stage] = {
    "prepare": PrepareStage(),
    "calibrate": CalibrateStage(),
    "surroundings": SurroundingsStage(),
    "profile": ProfileStage(),
    "probe": ProbeStage(),
    "assemble": AssembleStage(),
    "allocate": AllocateStage(),
    "refine": RefineStage(),
    "apply": ApplyStage(),
    "heal": HealStage(),
    "evaluate": EvaluateStage(),
    "report": ReportStage(),
}
