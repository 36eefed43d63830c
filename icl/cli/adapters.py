"""``icl adapters``: what is in an adapter's folder, and whether it fits a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from icl.cli.options import AsJson, LanguageModel
from icl.common.console import print_facts

app = typer.Typer(no_args_is_help=True, help="Adapters that replace demonstrations.")


@app.command(epilog="Example: icl adapters info adapter --model testbed")
def info(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of an adapter.")],
    model: LanguageModel = None,
    as_json: AsJson = False,
) -> None:
    """Show what an adapter is, and whether it fits a model."""
    check_adapter_folder(folder)
    from icl.adapters import AdapterConfig, count_parameters, read_config
    from icl.training import describe_method, read_run

    config, record = read_config(folder), read_run(folder)
    base = config["base"]
    facts: dict[str, Any] = {
        "method": " + ".join(describe_method(AdapterConfig.from_dict(part)) for part in config["parts"]),
        "numbers": count_parameters(folder),
        "base": config["base_model_name_or_path"] or "unknown",
        "architecture": "{architecture}, {layers} layers, {heads} heads, width {width}".format(**base),
    }
    if record is not None:
        facts |= {"trained on": record["run"]["data"]["train"], "seconds": record["seconds"]}
    if model is not None:
        from icl.attention import Decoder, load_model

        reason = Decoder(load_model(model)[0]).mismatch(base)
        facts |= {"fits": True} if reason is None else {"fits": False, "reason": reason}
    print_facts(facts, as_json)


def check_adapter_folder(folder: Path) -> None:
    """Raise ``ValueError`` if there is no adapter, before seconds of imports."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name one that icl train --out has made")
    if not any((folder / name).exists() for name in ("adapter_config.json", "run.json")):
        raise ValueError(f"{folder} cannot be read as an adapter, it has no adapter_config.json")
