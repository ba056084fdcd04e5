"""A3's mathematics and the model surgery. torch and transformers; no SQL, no queue, no web.

Importing this package registers the mixed-rank classes, so that a *compact* checkpoint loads by
``AutoModelForCausalLM.from_pretrained(folder)`` without remote code.
"""

import logging

# transformers imports torchao where it is installed, which logs what no user can act upon, paths of this machine included.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

# ruff: noqa: E402
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from solvers import modeling_rankalloc as modeling

for _family, (_config, _model) in modeling.COMPACT.items():
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForCausalLM.register(_config, _model, exist_ok=True)
    AutoModel.register(_config, modeling.BARE[_family], exist_ok=True)
