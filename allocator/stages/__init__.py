"""The stages of a job. Importing this package is cheap: torch is imported by the running stage alone.

prepare    read the model and the texts, hash them, name the profile
calibrate  second moments of the dense model, one item per shard of fit windows
surroundings   the layers of a plan around which curves are measured, where the request asks for it
profile    measured losses and analytic curves, one item per layer
probe      a few losses of a fine-tune, and whether stored curves and plans hold for it
assemble   the profile document, from the team's units
allocate   the plan: the integer program over the stored curves
refine     better ranks from losses measured around the plan, where losses do not add up
apply      solve, cut and write the checkpoints; recount them
heal       distil the dense model into the written checkpoint, where the request asks for it
evaluate   dense, uniform, planned and healed models on the measure shards and the evaluation text
report     report.json, report.html
"""

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
from allocator.stages.surroundings import Surroundings

STAGES: dict[str, Stage] = {
    "prepare": Prepare(),
    "calibrate": Calibrate(),
    "surroundings": Surroundings(),
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
