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
