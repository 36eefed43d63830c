"""In-context learning with vision-language models on hyperbolic geometry: demonstrations, ranked or distilled.

An engineer with a frozen model and a folder of demonstrations finds all of it here: :class:`Records` reads rows,
:class:`AnchorBank` keeps them as points, :func:`select` chooses among them, :func:`attach` puts an adapter into a model
in their place, :class:`DistillTrainer` or :func:`train` teaches it, and :class:`Evaluation` or :func:`evaluate` says
how good it is. Names are imported on first use.

The wings behind it, each a folder whose ``__init__`` says what it is for, are drawn in docs/architecture.md.
"""

from typing import TYPE_CHECKING

from icl.common.lazy import attach as _attach

if TYPE_CHECKING:
    from hyperbolic.version import __version__ as __version__
    from icl.adapters import AdapterConfig as AdapterConfig
    from icl.adapters import Adapters as Adapters
    from icl.adapters import FunctionVectorConfig as FunctionVectorConfig
    from icl.adapters import HierarchyBias as HierarchyBias
    from icl.adapters import HierarchyBiasConfig as HierarchyBiasConfig
    from icl.adapters import HiFICLConfig as HiFICLConfig
    from icl.adapters import HyperICLConfig as HyperICLConfig
    from icl.adapters import InContextVectorConfig as InContextVectorConfig
    from icl.adapters import LIVEConfig as LIVEConfig
    from icl.adapters import LoRAConfig as LoRAConfig
    from icl.adapters import MimICConfig as MimICConfig
    from icl.adapters import TaskVectorConfig as TaskVectorConfig
    from icl.adapters import attach as attach
    from icl.adapters import attached as attached
    from icl.adapters import fit as fit
    from icl.attention import load_model as load_model
    from icl.bank import AnchorBank as AnchorBank
    from icl.bank import BankError as BankError
    from icl.bank import BankSelection as BankSelection
    from icl.bank import DemonstratedRecords as DemonstratedRecords
    from icl.bank import Embedder as Embedder
    from icl.bank import HyperbolicLift as HyperbolicLift
    from icl.bank import LiftTraining as LiftTraining
    from icl.bank import Queries as Queries
    from icl.bank import build_index as build_index
    from icl.bank import fit_lift as fit_lift
    from icl.bank import search_index as search_index
    from icl.bank import select as select
    from icl.data import Example as Example
    from icl.data import Records as Records
    from icl.evaluation import Evaluation as Evaluation
    from icl.evaluation import Results as Results
    from icl.evaluation import evaluate as evaluate
    from icl.losses import Objective as Objective
    from icl.prompts import Collator as Collator
    from icl.training import DistillTrainer as DistillTrainer
    from icl.training import TrainingRun as TrainingRun
    from icl.training import fit_examples as fit_examples
    from icl.training import train as train
    from icl.training import training_arguments as training_arguments

__getattr__, __dir__, __all__ = _attach(__name__)
