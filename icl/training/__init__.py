"""How a student is trained: a run as data, carried out so that it goes on after any interruption.

:class:`DistillTrainer` is transformers' Trainer with a teacher; :func:`train` carries out a :class:`TrainingRun`, which
leaves a folder with an adapter. Data are ``splits``, and no test set is among them. Methods without training are fitted
to the same examples.
"""

from typing import TYPE_CHECKING

from icl.common.lazy import attach

if TYPE_CHECKING:
    from icl.training.arguments import training_arguments as training_arguments
    from icl.training.execution import train as train
    from icl.training.fitting import fit_examples as fit_examples
    from icl.training.run_configuration import TrainingRun as TrainingRun
    from icl.training.run_configuration import describe_method as describe_method
    from icl.training.run_configuration import override_settings as override_settings
    from icl.training.run_configuration import read_yaml as read_yaml
    from icl.training.run_folder import read_run as read_run
    from icl.training.settings import DataSettings as DataSettings
    from icl.training.settings import DemonstrationSettings as DemonstrationSettings
    from icl.training.settings import TrainingSettings as TrainingSettings
    from icl.training.splits import FileSplit as FileSplit
    from icl.training.splits import Split as Split
    from icl.training.splits import open_split as open_split
    from icl.training.teacher import Teacher as Teacher
    from icl.training.teacher import TeacherStates as TeacherStates
    from icl.training.teacher import evaluating as evaluating
    from icl.training.teacher import fingerprint as fingerprint
    from icl.training.teacher import observe_states as observe_states
    from icl.training.trainer import DistillTrainer as DistillTrainer

__getattr__, __dir__, __all__ = attach(__name__)
