"""How a student is trained: a run as data, carried out so that it goes on after any interruption.

:class:`DistillTrainer` is transformers' Trainer with a teacher; :func:`train` takes a :class:`Run` to a folder with an
adapter, by ``splits`` of data that no test set is among. Methods without training are fitted to the same examples.
"""

from typing import TYPE_CHECKING

from icl.common.lazy import attach

if TYPE_CHECKING:
    from icl.training.arguments import training_arguments as training_arguments
    from icl.training.execution import train as train
    from icl.training.fitting import fit_examples as fit_examples
    from icl.training.row_check import check_rows as check_rows
    from icl.training.run import Run as Run
    from icl.training.run import label_of as label_of
    from icl.training.run import overruled as overruled
    from icl.training.run import read_yaml as read_yaml
    from icl.training.run_folder import read_run as read_run
    from icl.training.splits import FileSplit as FileSplit
    from icl.training.splits import Show as Show
    from icl.training.splits import Split as Split
    from icl.training.splits import open_split as open_split
    from icl.training.teacher import States as States
    from icl.training.teacher import Teacher as Teacher
    from icl.training.teacher import fingerprint as fingerprint
    from icl.training.teacher import observe as observe
    from icl.training.trainer import DistillTrainer as DistillTrainer

__getattr__, __dir__, __all__ = attach(__name__)
