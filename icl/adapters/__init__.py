"""Adapters that replace demonstrations: each method a file in ``methods``, all on one container.

The face imports all methods at once, because a method is registered by its module.
"""

from icl.adapters.base import METHODS as METHODS
from icl.adapters.base import AdapterConfig as AdapterConfig
from icl.adapters.container import Adapters as Adapters
from icl.adapters.container import attach as attach
from icl.adapters.container import attached as attached
from icl.adapters.fitting import fit as fit
from icl.adapters.forward_pass import PromptLayout as PromptLayout
from icl.adapters.methods.function_vector import FunctionVectorConfig as FunctionVectorConfig
from icl.adapters.methods.hierarchy_bias import HierarchyBias as HierarchyBias
from icl.adapters.methods.hierarchy_bias import HierarchyBiasConfig as HierarchyBiasConfig
from icl.adapters.methods.hificl import HiFICLConfig as HiFICLConfig
from icl.adapters.methods.hyper_icl import HyperICLConfig as HyperICLConfig
from icl.adapters.methods.in_context_vector import InContextVectorConfig as InContextVectorConfig
from icl.adapters.methods.live import LIVEConfig as LIVEConfig
from icl.adapters.methods.lora import LoRAConfig as LoRAConfig
from icl.adapters.methods.mimic import MimICConfig as MimICConfig
from icl.adapters.methods.task_vector import TaskVectorConfig as TaskVectorConfig
from icl.adapters.storage import CONFIG_FILE as CONFIG_FILE
from icl.adapters.storage import WEIGHTS_FILE as WEIGHTS_FILE
from icl.adapters.storage import count_parameters as count_parameters
from icl.adapters.storage import read_adapter as read_adapter
from icl.adapters.storage import read_config as read_config
from icl.adapters.storage import restore_adapter as restore_adapter
