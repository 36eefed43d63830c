"""Adapters that replace demonstrations: each method a file, all on one container (docs/adapters.md)."""

from icl.adapters.base import AdapterConfig as AdapterConfig
from icl.adapters.container import Adapters as Adapters
from icl.adapters.container import attach as attach
from icl.adapters.container import attached as attached
from icl.adapters.fitted import fit as fit
from icl.adapters.function_vector import FunctionVectorConfig as FunctionVectorConfig
from icl.adapters.hierarchy_bias import HierarchyBias as HierarchyBias
from icl.adapters.hierarchy_bias import HierarchyBiasConfig as HierarchyBiasConfig
from icl.adapters.hificl import HiFICLConfig as HiFICLConfig
from icl.adapters.hyper_icl import HyperICLConfig as HyperICLConfig
from icl.adapters.in_context_vector import InContextVectorConfig as InContextVectorConfig
from icl.adapters.live import LIVEConfig as LIVEConfig
from icl.adapters.lora import LoRAConfig as LoRAConfig
from icl.adapters.mimic import MimICConfig as MimICConfig
from icl.adapters.task_vector import TaskVectorConfig as TaskVectorConfig
