"""All stages. A new one is a file beside this one, a line here, and its place in ``kinds.SEQUENCES``."""

from allocator.stages.allocate import Allocate
from allocator.stages.apply import Apply
from allocator.stages.assemble import Assemble
from allocator.stages.calibrate import Calibrate
from allocator.stages.evaluate import Evaluate
from allocator.stages.heal import Heal
from allocator.stages.pipeline import Stage
from allocator.stages.prepare import Prepare
from allocator.stages.probe import Probing
from allocator.stages.profile import Profile
from allocator.stages.refine import Refine
from allocator.stages.report import Report
from allocator.stages.surrounding_layers import SurroundingLayers

STAGES: dict[str, Stage] = {
    "prepare": Prepare(),
    "calibrate": Calibrate(),
    "surroundings": SurroundingLayers(),
    "profile": Profile(),
    "probe": Probing(),
    "assemble": Assemble(),
    "allocate": Allocate(),
    "refine": Refine(),
    "apply": Apply(),
    "heal": Heal(),
    "evaluate": Evaluate(),
    "report": Report(),
}
